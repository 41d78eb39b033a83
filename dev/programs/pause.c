/* The pod's first process: holds its namespaces, ends when told to, reaps what it inherits. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void ended(int sig)
{
	(void)sig;
	_exit(0);
}

static void reap(int sig)
{
	(void)sig;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

int main(void)
{
	struct sigaction reaper = { .sa_handler = reap, .sa_flags = SA_NOCLDSTOP };

	signal(SIGTERM, ended);
	signal(SIGINT, ended);
	sigaction(SIGCHLD, &reaper, NULL);
	for (;;)
		pause();
}
