// Reads PromQL expressions, a JSON array of strings, and says which of them Prometheus does not take.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	var expressions []string
	if err := json.NewDecoder(os.Stdin).Decode(&expressions); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	status := 0
	prometheus := parser.NewParser(parser.Options{})
	for _, expression := range expressions {
		if _, err := prometheus.ParseExpr(expression); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", expression, err)
			status = 1
		}
	}
	os.Exit(status)
}
