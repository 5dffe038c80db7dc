// A server, a client and a server that asks another, as Go programs are: by net/http, over TLS or not.
//
//	talk serve http1|http2 CERTIFICATE       tells its port
//	talk ask http1|http2 CERTIFICATE PORT PATH COUNT CONNECTIONS   asks once it is told a line
//	talk front BACK                          tells its address; answers /in/N after asking BACK for /call/N
//	talk log FILE                            tells its address; logs lines about /in/N
//
// Each tells its line once it is ready, and ends when its input does.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path"
	"strconv"
	"time"
)

func main() {
	given := os.Args[1:]
	switch given[0] {
	case "serve":
		serve(given[1], given[2])
	case "ask":
		ask(given[1], given[2], given[3], given[4], number(given[5]), number(given[6]))
	case "front":
		front(given[1])
	case "log":
		logs(given[1])
	default:
		log.Fatalf("no such part: %s", given[0])
	}
	io.Copy(io.Discard, os.Stdin)
}

func number(text string) int {
	number, err := strconv.Atoi(text)
	must(err)
	return number
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func listen() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	return listener
}

func serve(protocol, certificate string) {
	pair, err := tls.LoadX509KeyPair(certificate, certificate)
	must(err)
	answer := func(w http.ResponseWriter, r *http.Request) {
		switch number(path.Base(r.URL.Path)) % 5 {
		case 3:
			http.Error(w, "no", http.StatusNotFound)
		case 4:
			http.Error(w, "not now", http.StatusServiceUnavailable)
		default:
			io.WriteString(w, "ok")
		}
	}
	server := &http.Server{Handler: http.HandlerFunc(answer), TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	if protocol == "http1" {
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	listener := listen()
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go server.ServeTLS(listener, "", "")
}

func ask(protocol, certificate, port, path string, count, connections int) {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(certificate)
	must(err)
	roots.AppendCertsFromPEM(pem)
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadString('\n')
	for connection := 0; connection < connections; connection++ {
		client := http.Client{Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots},
			ForceAttemptHTTP2: protocol == "http2",
		}}
		for request := connection; request < count; request += connections {
			get(client, fmt.Sprintf("https://127.0.0.1:%s%s%d", port, path, request))
		}
	}
}

func get(client http.Client, url string) {
	answer, err := client.Get(url)
	must(err)
	_, err = io.Copy(io.Discard, answer.Body)
	must(err)
	answer.Body.Close()
}

func front(back string) {
	client := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	answer := func(w http.ResponseWriter, r *http.Request) {
		get(client, fmt.Sprintf("http://%s/call/%s", back, path.Base(r.URL.Path)))
		io.WriteString(w, "ok")
	}
	listener := listen()
	fmt.Println(listener.Addr())
	go http.Serve(listener, http.HandlerFunc(answer))
}

func logs(file string) {
	out, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	must(err)
	log := log.New(out, "", log.LstdFlags|log.Lmicroseconds)
	answer := func(w http.ResponseWriter, r *http.Request) {
		request := number(path.Base(r.URL.Path))
		log.Printf("request %d begins", request)
		time.Sleep(time.Duration(request*7919%3000) * time.Microsecond)
		log.Printf("request %d is done", request)
		io.WriteString(w, "ok")
	}
	listener := listen()
	fmt.Println(listener.Addr())
	go http.Serve(listener, http.HandlerFunc(answer))
}
