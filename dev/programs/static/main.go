// Serves the files of a directory on a port, counts its requests and keeps some memory.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"sync/atomic"
)

func main() {
	address := flag.String("listen", ":8080", "")
	folder := flag.String("folder", "/", "")
	flag.Parse()
	var count atomic.Int64
	http.HandleFunc("/count", func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(answer, count.Add(1))
	})
	http.Handle("/", http.FileServer(http.Dir(*folder)))
	log.Print("listening")
	log.Fatal(http.ListenAndServe(*address, nil))
}
