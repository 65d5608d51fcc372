// Mainstay with Go: cache and database by the standard library, realtime by centrifuge-go.
// EDGE, API_KEY, WEBSOCKET and TOKEN say where and as whom: go run .
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

var client = &http.Client{Timeout: 10 * time.Second}

func call(method, path, body, kind string) []byte {
	request, err := http.NewRequest(method, os.Getenv("EDGE")+path, strings.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("x-api-key", os.Getenv("API_KEY"))
	request.Header.Set("content-type", kind)
	answer, err := client.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode >= 300 {
		log.Fatalf("%s %s: %s %s %v", method, path, answer.Status, text, err)
	}
	return text
}

func main() {
	// --- cache
	call("PUT", "/cache/quickstart/go", "hello", "text/plain")
	if got := string(call("GET", "/cache/quickstart/go", "", "")); got != "hello" {
		log.Fatalf("read %q", got)
	}
	call("DELETE", "/cache/quickstart/go", "", "")
	fmt.Println("cache: stored, read, deleted")

	// --- database
	var answer struct {
		Rows   [][]int `json:"rows"`
		Served struct {
			Node string `json:"node"`
		} `json:"served"`
	}
	query := `{"sql":"select $1::int + 1 as next","params":[41]}`
	if err := json.Unmarshal(call("POST", "/database/query", query, "application/json"), &answer); err != nil || answer.Rows[0][0] != 42 {
		log.Fatalf("rows %v, %v", answer.Rows, err)
	}
	fmt.Println("database: answered by", answer.Served.Node)

	// --- realtime
	realtime := centrifuge.NewJsonClient(os.Getenv("WEBSOCKET"), centrifuge.Config{Token: os.Getenv("TOKEN")})
	defer realtime.Close()
	subscription, err := realtime.NewSubscription("news")
	if err != nil {
		log.Fatal(err)
	}
	subscribed, received := make(chan struct{}, 1), make(chan string, 1)
	subscription.OnSubscribed(func(centrifuge.SubscribedEvent) { subscribed <- struct{}{} })
	subscription.OnPublication(func(event centrifuge.PublicationEvent) { received <- string(event.Data) })
	if err := realtime.Connect(); err != nil {
		log.Fatal(err)
	}
	if err := subscription.Subscribe(); err != nil {
		log.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	select {
	case <-subscribed:
	case <-deadline:
		log.Fatal("not subscribed within 10 s")
	}
	call("POST", "/realtime/publish", `{"channel":"news","data":{"from":"go"}}`, "application/json")
	select {
	case data := <-received:
		fmt.Println("realtime: received", data)
	case <-deadline:
		log.Fatal("nothing received within 10 s")
	}
}
