// Ten thousand orphans that end at the same moment, on SIGUSR1; tells which signal came in the midst of it.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	int go[2], signo;
	char byte;
	sigset_t awaited;

	sigemptyset(&awaited);
	sigaddset(&awaited, SIGUSR1);
	sigaddset(&awaited, SIGUSR2);
	sigprocmask(SIG_BLOCK, &awaited, NULL);
	prctl(PR_SET_CHILD_SUBREAPER, 0); // the orphans go to the container's first process
	if (pipe(go) < 0)
		return 1;
	for (int parent = 0; parent < 20; parent++) {
		if (fork())
			continue;
		close(go[1]);
		for (int child = 0; child < 500; child++) {
			int pid = fork();

			if (pid < 0)
				_exit(1);
			if (pid == 0)
				_exit(read(go[0], &byte, 1) == 0 ? 0 : 1);
		}
		_exit(0);
	}
	close(go[0]);
	for (int parent = 0; parent < 20; parent++) {
		int status;

		if (wait(&status) < 0 || status)
			return 1;
	}
	puts("ready");
	fflush(stdout);
	sigwait(&awaited, &signo);
	close(go[1]);
	sigwait(&awaited, &signo);
	printf("%d\n", signo);
	fflush(stdout);
	pause();
	return 0;
}
