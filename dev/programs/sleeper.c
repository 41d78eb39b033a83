/* Does nothing until a signal ends it: the smallest application. */
#include <unistd.h>

int main(void)
{
	for (;;)
		pause();
}
