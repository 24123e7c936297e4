// Load measures queue servers over loopback, on raw sockets: a closed loop, or with -rate an open one.
//
// Rule: everything a server answers is read and judged; what is not the answer asked for is counted, never hidden.
// One line of JSON goes to standard output; see the type report.
//
// It costs little so that the server has the machine: requests are built before the clock runs, answers are looked at,
// not parsed, and one thread (-procs 1) drives all connections.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"time"
)

type options struct {
	protocol    string
	mode        string
	addr        string
	queue       string
	connections int
	seconds     float64
	warmup      float64
	payload     int
	priorities  int
	window      int
	prefill     int64
	count       int64
	ownQueues   bool
	keep        bool
	amqpGet     bool
	changing    bool
	batch       int
	rate        float64
	cap         time.Duration
}

// queueOf names the queue of one connection: one for all unless told otherwise.
func (o *options) queueOf(index int) string {
	if o.ownQueues {
		return fmt.Sprintf("%s-%d", o.queue, index)
	}
	return o.queue
}

func (o *options) queues() []string {
	if !o.ownQueues {
		return []string{o.queue}
	}
	names := make([]string, o.connections)
	for i := range names {
		names[i] = o.queueOf(i)
	}
	return names
}

func parse() *options {
	o := &options{}
	flag.StringVar(&o.protocol, "protocol", "http", "http, ws, beanstalkd, redis, postgres or amqp")
	flag.StringVar(&o.mode, "mode", "cycle", "publish; cycle (publish, consume, ack; over ws: publish, deliver, ack); drain (consume, ack; needs -count)")
	flag.StringVar(&o.addr, "addr", "127.0.0.1:6784", "host:port of the server")
	flag.StringVar(&o.queue, "queue", "bench", "queue name (plain letters, digits and '-')")
	flag.IntVar(&o.connections, "connections", 8, "connections")
	flag.Float64Var(&o.seconds, "seconds", 5, "measured seconds")
	flag.Float64Var(&o.warmup, "warmup", 1, "seconds before that are not measured")
	flag.IntVar(&o.payload, "payload", 100, "payload bytes, at least 16")
	flag.IntVar(&o.priorities, "priorities", 10, "priorities are drawn evenly from 0 to one less than this")
	flag.IntVar(&o.window, "window", 64, "ws, and filling: requests in flight on a connection")
	flag.Int64Var(&o.prefill, "prefill", 0, "messages to put into the queue first, not measured")
	flag.Int64Var(&o.count, "count", 0, "end after this many messages; no warm-up, and -seconds is no limit then")
	flag.BoolVar(&o.ownQueues, "own-queues", false, "a queue for each connection")
	flag.BoolVar(&o.keep, "keep", false, "leave the queue in place at the end")
	flag.BoolVar(&o.amqpGet, "amqp-get", false, "amqp: basic.get instead of a consumer with prefetch 1")
	flag.BoolVar(&o.changing, "changing-headers", false, "http: a traceparent and an X-Request-Id that differ in every request")
	flag.IntVar(&o.batch, "batch", 0, "http: messages in each request, with modes publish and cycle; 0: one, without the routes for batches")
	flag.Float64Var(&o.rate, "rate", 0, "messages/s that are due, over all connections, step by step; measured from when each is due; 0: a closed loop")
	flag.DurationVar(&o.cap, "cap", 30*time.Minute, "give up after this")
	flag.StringVar(&token, "token", "", "http and ws: sent with each request, as Authorization: Bearer")
	flag.BoolVar(&secured, "tls", false, "http and ws: over TLS")
	procs := flag.Int("procs", 1, "threads that run the loop")
	flag.Parse()
	runtime.GOMAXPROCS(*procs)
	if o.payload < 16 || o.connections < 1 || o.priorities < 1 || o.window < 1 || (o.mode == "drain" && o.count < 1) {
		fmt.Fprintln(os.Stderr, "load: -payload at least 16, -connections, -priorities and -window at least 1, drain needs -count")
		os.Exit(2)
	}
	if o.rate > 0 && (o.protocol == "ws" || o.batch > 0 || o.count > 0) {
		fmt.Fprintln(os.Stderr, "load: -rate is for single steps: not with ws, -batch or -count")
		os.Exit(2)
	}
	return o
}

func main() {
	o := parse()
	server, err := serverFor(o)
	if err == nil {
		var result *report
		if result, err = measure(o, server); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(result)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}
