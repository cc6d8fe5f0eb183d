// What it costs to send a boat, in Go.
//
// Go builds for WASI 0.1, which knows no HTTP, so the pod says `coracle.dev/http: wagi` and each request
// is a run of this program by CGI: net/http/cgi turns it into an ordinary http.Handler.
//
//	GET /quote?items=N&to=XX   {"to":"XX","items":N,"cents":…,"days":…}
//	GET /                      what can be asked
//	anything else              404; a count that is none, or a country that is not served: 400
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/cgi"
	"os"
	"strconv"
)

// A tariff: what the first and each further boat cost in cents, and how long they travel.
type tariff struct{ first, further, days int }

var tariffs = map[string]tariff{
	"GB": {first: 900, further: 250, days: 2},
	"IE": {first: 1100, further: 300, days: 3},
	"IS": {first: 3900, further: 1200, days: 9},
}

const mostItems = 1000

type quote struct {
	To    string `json:"to"`
	Items int    `json:"items"`
	Cents int    `json:"cents"`
	Days  int    `json:"days"`
}

func answer(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	items, err := strconv.Atoi(query.Get("items"))
	if err != nil || items < 1 || items > mostItems {
		http.Error(w, fmt.Sprintf("items=%q is not a number from 1 to %d", query.Get("items"), mostItems), http.StatusBadRequest)
		return
	}
	rate, served := tariffs[query.Get("to")]
	if !served {
		http.Error(w, fmt.Sprintf("to=%q: we do not send boats there", query.Get("to")), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	price := quote{To: query.Get("to"), Items: items, Cents: rate.first + (items-1)*rate.further, Days: rate.days}
	if err := json.NewEncoder(w).Encode(price); err != nil {
		log.Print(err)
	}
}

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /quote", answer)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "Shipping, in Go, on %s: GET /quote?items=2&to=GB\n", os.Getenv("HOSTNAME"))
	})
	if err := cgi.Serve(mux); err != nil {
		log.Fatal(err)
	}
}
