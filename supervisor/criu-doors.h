// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <stddef.h>

enum { DOORS_OPEN = 70 }; // exit status of a failed test

// From now on the bytes, which must stay, are what criu reads as its cache of kernel features; it can neither write one nor
// find or load a plug-in. Before that every call passes through.
void doors_close(const char *bytes, size_t size);

// Exits with DOORS_OPEN and a line on stderr unless every way to open a file, of criu and of each library linked with it,
// comes through here.
void doors_test(void);
