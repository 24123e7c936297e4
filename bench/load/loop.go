package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// server is a kind of server: it makes queues and opens connections to them.
type server interface {
	create(queue string) error // fine when it is there already
	remove(queue string) error
	open(index int, queue string) (loop, error)
	fill(queue string, count int64) error // as fast as the protocol allows, answers read
}

// loop is one connection under load.
type loop interface {
	deadline(at time.Time)
	wake()
	run(c *recorder) error // until the run is stopped; an error means the connection is gone
	close()
}

// stepper is a connection that does one thing after the other and waits for each answer.
type stepper interface {
	publish() error
	consume() (bool, error) // false: nothing there
	ack() error             // of what consume took
	deadline(at time.Time)
	close()
}

func serverFor(o *options) (server, error) {
	switch o.protocol {
	case "http":
		return &httpServer{o}, nil
	case "ws":
		return &wsServer{o}, nil
	case "beanstalkd":
		return &beanstalkdServer{o}, nil
	case "redis":
		return &redisServer{o: o}, nil
	case "postgres":
		return &postgresServer{o}, nil
	case "amqp":
		return &amqpServer{o}, nil
	}
	return nil, errUnknown
}

// prefill puts the messages in over one connection a queue.
func prefill(o *options, s server) error {
	names := o.queues()
	for _, name := range names {
		if err := s.fill(name, o.prefill/int64(len(names))); err != nil {
			return fmt.Errorf("filling: %w", err)
		}
	}
	return nil
}

// emptyPatience is how many consumes may find nothing before one pauses for a millisecond.
const emptyPatience = 100

// stepLoop drives a stepper: publish only, whole cycles, or consume and ack until the count is reached.
type stepLoop struct {
	stepper
	mode string
}

// pusher is a stepper whose consume may wait for a message that another connection, already at its end, holds.
type pusher interface{ wake() }

func (l stepLoop) wake() {
	if p, ok := l.stepper.(pusher); ok {
		p.wake()
	}
}

func (l stepLoop) run(c *recorder) error {
	due := c.run.arrivals()
	for c.run.claim() {
		start := c.run.now()
		if due != nil {
			start = due.next()
			time.Sleep(time.Duration(start - c.run.now()))
		}
		if err := l.once(c, start); err != nil {
			if answer, ok := err.(refusal); ok {
				c.fail(string(answer))
				continue
			}
			if _, ok := l.stepper.(pusher); ok && c.run.stopped.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
				return nil // woken at the end; this cycle counts for nothing
			}
			return err
		}
	}
	return nil
}

func (l stepLoop) once(c *recorder, start int64) error {
	at := start
	if l.mode != "drain" {
		if err := l.publish(); err != nil {
			return err
		}
		at = c.run.now()
		c.step(stepPublish, start, at)
		if l.mode == "publish" {
			c.message(at)
			return nil
		}
	}
	for misses := 1; ; misses++ {
		found, err := l.consume()
		if err != nil {
			return err
		}
		if found {
			break
		}
		c.empty++
		if c.run.stopped.Load() {
			return nil
		}
		if misses%emptyPatience == 0 {
			time.Sleep(time.Millisecond)
		}
		at = c.run.now()
	}
	taken := c.run.now()
	c.step(stepConsume, at, taken)
	if err := l.ack(); err != nil {
		return err
	}
	end := c.run.now()
	c.step(stepAck, taken, end)
	c.step(stepCycle, start, end)
	c.message(end)
	return nil
}

// arrivals says when the messages of one connection are due. A message is measured from then, also when the connection
// is still busy with the one before: what waits because the server is slow counts as slow.
type arrivals struct {
	at     float64
	mean   float64 // nanoseconds between two of them
	random *rand.Rand
}

// arrivals is nil in a closed loop, where a message is due when the one before it is done.
func (r *run) arrivals() *arrivals {
	if r.o.rate <= 0 {
		return nil
	}
	mean := 1e9 * float64(r.o.connections) / r.o.rate
	return &arrivals{float64(r.now()), mean, rand.New(rand.NewPCG(rand.Uint64(), 0))}
}

// next is the time of the next one, in nanoseconds of the run: as far apart as in a Poisson process.
func (a *arrivals) next() int64 {
	a.at += a.random.ExpFloat64() * a.mean
	return int64(a.at)
}

// wire is a socket with its buffers.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
}

// secured: connections speak TLS. Whose certificate the server shows does not matter here.
var secured bool

func dial(addr string) (*wire, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	// Setting up and filling must not hang either; the measured part sets its own deadline.
	if err := conn.SetDeadline(time.Now().Add(30 * time.Minute)); err != nil {
		return nil, err
	}
	if secured {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	return &wire{conn: conn, in: bufio.NewReaderSize(conn, 64*1024)}, nil
}

func (w *wire) deadline(at time.Time) { _ = w.conn.SetDeadline(at) }
func (w *wire) close()                { _ = w.conn.Close() }

func (w *wire) send(p []byte) error {
	_, err := w.conn.Write(p)
	return err
}

// flush sends what has been gathered in out.
func (w *wire) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	err := w.send(w.out)
	w.out = w.out[:0]
	return err
}

// line reads up to "\r\n" and leaves it off. The bytes are good until the next read.
func (w *wire) line() ([]byte, error) {
	line, err := w.in.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if n := len(line); n >= 2 && line[n-2] == '\r' {
		return line[:n-2], nil
	}
	return line[:len(line)-1], nil
}

// poolSize different bodies a connection go round, so that no server gains from one text sent over and over.
const poolSize = 64

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

func text(random *rand.Rand, size int) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = letters[random.IntN(len(letters))]
	}
	return p
}

// pool builds the requests of one connection in advance: the same ones in every run.
func pool(o *options, index int, build func(priority int, payload []byte) []byte) [][]byte {
	random := rand.New(rand.NewPCG(1, uint64(index)))
	requests := make([][]byte, poolSize)
	for i := range requests {
		requests[i] = build(random.IntN(o.priorities), text(random, o.payload))
	}
	return requests
}
