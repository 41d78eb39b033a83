module static

go 1.24
