// Serves the files of a directory on a port, counts its requests and keeps some memory. With -dial it is a client
// instead, which keeps a connection as net.Dial makes it: it says a line, rests, and says it again.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

func rest(address string, line string, duration time.Duration) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	answers := bufio.NewScanner(conn)
	for _, pause := range []time.Duration{0, duration} {
		time.Sleep(pause)
		if _, err := fmt.Fprintln(conn, line); err != nil {
			log.Fatal(err)
		}
		if !answers.Scan() {
			log.Fatalf("no answer: %v", answers.Err())
		}
		log.Printf("answered %s", answers.Text())
	}
}

func main() {
	address := flag.String("listen", ":8080", "")
	folder := flag.String("folder", "/", "")
	dial := flag.String("dial", "", "")
	line := flag.String("line", "", "")
	duration := flag.Duration("rest", time.Minute, "")
	flag.Parse()
	if *dial != "" {
		rest(*dial, *line, *duration)
		return
	}
	var count atomic.Int64
	http.HandleFunc("/count", func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(answer, count.Add(1))
	})
	http.Handle("/", http.FileServer(http.Dir(*folder)))
	log.Print("listening")
	log.Fatal(http.ListenAndServe(*address, nil))
}
