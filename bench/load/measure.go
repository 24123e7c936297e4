package main

import (
	"errors"
	"math/bits"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The steps whose latency is kept apart. A cycle is the whole way of one message.
const (
	stepCycle = iota
	stepPublish
	stepConsume
	stepAck
	steps
)

var stepNames = [steps]string{"cycle", "publish", "consume", "ack"}

// histogram counts nanoseconds in buckets at most 1/64 of their value wide.
type histogram struct {
	counts [64 * 40]uint32
	total  uint64
	max    int64
}

func bucketOf(ns int64) int {
	if ns < 128 {
		return int(max(ns, 0))
	}
	shift := bits.Len64(uint64(ns)) - 7
	return min(64*shift+int(ns>>shift), len(histogram{}.counts)-1)
}

// upperEdge is the largest value of a bucket.
func upperEdge(bucket int) int64 {
	if bucket < 128 {
		return int64(bucket)
	}
	shift := bucket/64 - 1
	return (int64(bucket%64+64)+1)<<shift - 1
}

func (h *histogram) add(ns int64) {
	h.counts[bucketOf(ns)]++
	h.total++
	h.max = max(h.max, ns)
}

func (h *histogram) merge(other *histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
	h.max = max(h.max, other.max)
}

func (h *histogram) quantile(q float64) float64 {
	rank := uint64(q * float64(h.total))
	var seen uint64
	for i, n := range h.counts {
		if seen += uint64(n); seen > rank {
			return float64(min(upperEdge(i), h.max)) / 1000
		}
	}
	return float64(h.max) / 1000
}

// run is the clock and the switch that all connections share.
type run struct {
	o       *options
	base    time.Time
	from    int64 // measured from here, nanoseconds since base
	to      int64
	stopped atomic.Bool
	claimed atomic.Int64 // messages claimed against -count
	done    atomic.Int64 // messages settled against -count
	lastEnd atomic.Int64
	loops   []loop
}

// stop ends the run. Loops that may sit in a read with nothing to come are woken.
func (r *run) stop() {
	if r.stopped.CompareAndSwap(false, true) {
		for _, l := range r.loops {
			l.wake()
		}
	}
}

func (r *run) now() int64 { return int64(time.Since(r.base)) }

// claim asks for one more message to handle; false: enough, or time is over.
func (r *run) claim() bool {
	if r.stopped.Load() {
		return false
	}
	return r.o.count == 0 || r.claimed.Add(1) <= r.o.count
}

// recorder holds what one connection saw.
type recorder struct {
	run      *run
	messages int64
	empty    int64
	errors   map[string]int64
	latency  [steps]histogram
}

func (c *recorder) step(step int, from, to int64) {
	if to >= c.run.from && to < c.run.to {
		c.latency[step].add(to - from)
	}
}

func (c *recorder) message(end int64) {
	if end >= c.run.from && end < c.run.to {
		c.messages++
	}
	if c.run.o.count > 0 && c.run.done.Add(1) >= c.run.o.count {
		c.run.lastEnd.Store(end)
		c.run.stop()
	}
}

func (c *recorder) fail(kind string) { c.errors[kind]++ }

// refusal is an answer that is not the one asked for: counted, and the loop goes on.
type refusal string

func (r refusal) Error() string { return string(r) }

// latencies are microseconds.
type latencies struct {
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
	Count uint64  `json:"count"`
}

// report is the line of JSON. Rate is messages (publishes, whole cycles or drained messages) per second.
type report struct {
	Protocol    string               `json:"protocol"`
	Mode        string               `json:"mode"`
	Connections int                  `json:"connections"`
	Window      int                  `json:"window"`
	Payload     int                  `json:"payload_bytes"`
	Prefill     int64                `json:"prefill"`
	Messages    int64                `json:"messages"`
	Seconds     float64              `json:"seconds"`
	Rate        float64              `json:"rate"`
	LatencyUs   map[string]latencies `json:"latency_us"`
	Empty       int64                `json:"empty"` // consumes that found nothing and were tried again
	Errors      int64                `json:"errors"`
	ErrorKinds  map[string]int64     `json:"error_kinds"`
	CPUSeconds  float64              `json:"driver_cpu_seconds"`
	RunSeconds  float64              `json:"run_seconds"` // from the first request to the last answer
}

// cpuSeconds is what this process has used so far.
func cpuSeconds() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// measure fills, opens all connections, runs the loop on each, and adds up.
func measure(o *options, s server) (*report, error) {
	for _, name := range o.queues() {
		if err := s.create(name); err != nil {
			return nil, err
		}
	}
	if o.prefill > 0 {
		if err := prefill(o, s); err != nil {
			return nil, err
		}
	}
	r := &run{o: o, base: time.Now(), from: int64(o.warmup * 1e9), to: int64((o.warmup + o.seconds) * 1e9)}
	if o.count > 0 {
		r.from, r.to = 0, int64(o.cap)
	}
	loops := make([]loop, o.connections)
	r.loops = loops
	recorders := make([]*recorder, o.connections)
	for i := range loops {
		recorders[i] = &recorder{run: r, errors: map[string]int64{}}
		var err error
		if loops[i], err = s.open(i, o.queueOf(i)); err != nil {
			return nil, err
		}
	}
	cpu := cpuSeconds()
	r.base = time.Now()
	deadline := r.base.Add(time.Duration(r.to) + 10*time.Second)
	timer := time.AfterFunc(time.Duration(r.to), r.stop)
	for i := range loops {
		loops[i].deadline(deadline)
	}
	var workers sync.WaitGroup
	for i := range loops {
		workers.Add(1)
		go func() {
			defer workers.Done()
			if err := loops[i].run(recorders[i]); err != nil {
				recorders[i].fail("connection lost: " + err.Error())
			}
		}()
	}
	workers.Wait()
	timer.Stop()
	cpu = cpuSeconds() - cpu
	whole := float64(r.now()) / 1e9
	for i := range loops {
		loops[i].close()
	}
	if !o.keep {
		for _, name := range o.queues() {
			if err := s.remove(name); err != nil {
				return nil, err
			}
		}
	}
	result := addUp(o, r, recorders)
	result.CPUSeconds, result.RunSeconds = cpu, whole
	return result, nil
}

func addUp(o *options, r *run, recorders []*recorder) *report {
	total := &recorder{errors: map[string]int64{}}
	for _, c := range recorders {
		total.messages += c.messages
		total.empty += c.empty
		for kind, n := range c.errors {
			total.errors[kind] += n
		}
		for i := range total.latency {
			total.latency[i].merge(&c.latency[i])
		}
	}
	seconds := o.seconds
	if o.count > 0 {
		if end := r.lastEnd.Load(); end > 0 {
			seconds = float64(end) / 1e9
		} else {
			seconds = float64(r.now()) / 1e9
			total.fail("not all of -count were done")
		}
	}
	result := &report{
		Protocol: o.protocol, Mode: o.mode, Connections: o.connections, Window: o.window, Payload: o.payload,
		Prefill: o.prefill, Messages: total.messages, Seconds: seconds, Rate: float64(total.messages) / seconds,
		LatencyUs: map[string]latencies{}, Empty: total.empty, ErrorKinds: total.errors,
	}
	for i := range total.latency {
		if h := &total.latency[i]; h.total > 0 {
			result.LatencyUs[stepNames[i]] = latencies{
				P50: h.quantile(0.50), P90: h.quantile(0.90), P99: h.quantile(0.99), Max: float64(h.max) / 1000, Count: h.total,
			}
		}
	}
	for _, n := range total.errors {
		result.Errors += n
	}
	return result
}

var errUnknown = errors.New("unknown protocol or mode")
