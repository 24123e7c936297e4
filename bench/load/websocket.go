package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"time"
)

// wsServer drives GET /ws with many requests in flight on each socket.
//
// Publish: -window publishes are in flight, each answer sends the next.
// Cycle: every socket subscribes to the queue and starts with -window publishes; each delivery is acked, each answered
// ack sends the next publish. Deliveries go to any of the sockets, so a socket may have more or fewer than -window
// messages on their way; all of them together always have connections x window.
// The payload begins with the time of its publish, so a cycle's latency runs from the publish to the answer of the ack.
type wsServer struct{ o *options }

func readFull(r io.Reader, p []byte) (int, error) { return io.ReadFull(r, p) }

func (s *wsServer) create(queue string) error            { return (&httpServer{s.o}).create(queue) }
func (s *wsServer) remove(queue string) error            { return (&httpServer{s.o}).remove(queue) }
func (s *wsServer) fill(queue string, count int64) error { return wsFill(s.o, queue, count) }

// wsFill puts messages in over four sockets with at least 256 in flight on each.
func wsFill(o *options, queue string, count int64) error {
	filling := *o
	filling.protocol, filling.mode, filling.queue, filling.count, filling.prefill = "ws", "publish", queue, count, 0
	filling.ownQueues, filling.keep, filling.connections = false, true, 4
	filling.window = max(o.window, min(256, 4<<20/o.payload))
	result, err := measure(&filling, &wsServer{&filling})
	if err == nil && (result.Errors > 0 || result.Messages != count) {
		err = fmt.Errorf("%d of %d messages, errors %v", result.Messages, count, result.ErrorKinds)
	}
	return err
}

type wsConn struct {
	*wire
	mode      string
	queue     string
	publishes [][]byte // whole frames; the answer's req_id and the time in the payload are written in before sending
	idAt      []int
	timeAt    []int
	next      int
	window    int
	slots     []slot // by req_id
	free      []int
	frame     []byte
	pending   int // requests without an answer yet
	closing   bool
}

// slot is one request in flight.
type slot struct {
	step      int
	sent      int64
	published int64
}

func (s *wsServer) open(index int, queue string) (loop, error) {
	w, err := dial(s.o.addr)
	if err != nil {
		return nil, err
	}
	c := &wsConn{wire: w, mode: s.o.mode, queue: queue, window: s.o.window}
	if err := c.handshake(s.o.addr); err != nil {
		return nil, err
	}
	c.publishes = pool(s.o, index, func(priority int, payload []byte) []byte {
		copy(payload, "0000000000000000")
		body := []byte(fmt.Sprintf(`{"type":"publish","req_id":"000000","queue":"%s","priority":%d,"payload":"%s"}`,
			queue, priority, payload))
		return appendFrame(nil, body)
	})
	for _, frame := range c.publishes {
		c.idAt = append(c.idAt, bytes.Index(frame, []byte(`"req_id":"`))+len(`"req_id":"`))
		c.timeAt = append(c.timeAt, bytes.Index(frame, []byte(`"payload":"`))+len(`"payload":"`))
	}
	// A drain acks what comes, as much as the server has under way for this socket.
	c.slots = make([]slot, 100_000)
	for i := range c.slots {
		c.free = append(c.free, len(c.slots)-1-i)
	}
	return c, nil
}

func (c *wsConn) handshake(host string) error {
	err := c.send([]byte("GET /ws HTTP/1.1\r\nHost: " + host + "\r\n" + authorization() + "Upgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: bG9hZC1kcml2ZXItbG9hZA==\r\nSec-WebSocket-Version: 13\r\n\r\n"))
	if err != nil {
		return err
	}
	line, err := c.line()
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 101")) {
		return fmt.Errorf("no upgrade: %q", line)
	}
	for len(line) > 0 {
		if line, err = c.line(); err != nil {
			return err
		}
	}
	return nil
}

// appendFrame writes one masked text frame. The mask is zero, which leaves the bytes as they are: the server unmasks as
// it would any other, and this side saves the work.
func appendFrame(p, body []byte) []byte {
	return append(appendFrameHead(p, 0x81, len(body)), body...)
}

func appendFrameHead(p []byte, first byte, length int) []byte {
	p = append(p, first)
	switch {
	case length < 126:
		p = append(p, 0x80|byte(length))
	case length < 65536:
		p = append(p, 0x80|126)
		p = binary.BigEndian.AppendUint16(p, uint16(length))
	default:
		p = append(p, 0x80|127)
		p = binary.BigEndian.AppendUint64(p, uint64(length))
	}
	return append(p, 0, 0, 0, 0)
}

// read returns the next text frame; pings are answered on the way. The bytes are good until the next read.
func (c *wsConn) read() ([]byte, error) {
	for {
		head, err := c.in.Peek(2)
		if err != nil {
			return nil, err
		}
		opcode, length, extra := head[0], uint64(head[1]&0x7f), 0
		if head[1]&0x80 != 0 || opcode&0x80 == 0 {
			return nil, fmt.Errorf("a masked frame or a fragment from the server")
		}
		if length == 126 {
			extra = 2
		} else if length == 127 {
			extra = 8
		}
		if head, err = c.in.Peek(2 + extra); err != nil {
			return nil, err
		}
		if extra == 2 {
			length = uint64(binary.BigEndian.Uint16(head[2:]))
		} else if extra == 8 {
			length = binary.BigEndian.Uint64(head[2:])
		}
		_, _ = c.in.Discard(2 + extra)
		if uint64(cap(c.frame)) < length {
			c.frame = make([]byte, length+1024)
		}
		c.frame = c.frame[:length]
		if _, err := io.ReadFull(c.in, c.frame); err != nil {
			return nil, err
		}
		switch opcode & 0x0f {
		case 1:
			return c.frame, nil
		case 8:
			return nil, fmt.Errorf("the server closed the socket: %q", c.frame)
		case 9:
			c.out = append(appendFrameHead(c.out, 0x8a, len(c.frame)), c.frame...)
		}
	}
}

// putDigits writes a number into a field of fixed width, zeros in front.
func putDigits(p []byte, n int64) {
	for i := len(p) - 1; i >= 0; i-- {
		p[i] = byte('0' + n%10)
		n /= 10
	}
}

func number(p []byte) int64 {
	n, err := strconv.ParseInt(string(p), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func (c *wsConn) take(s slot) int {
	i := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	c.slots[i] = s
	c.pending++
	return i
}

func (c *wsConn) publish(now int64) {
	c.next = (c.next + 1) % poolSize
	start := len(c.out)
	c.out = append(c.out, c.publishes[c.next]...)
	frame := c.out[start:]
	id := c.take(slot{step: stepPublish, sent: now})
	putDigits(frame[c.idAt[c.next]:c.idAt[c.next]+6], int64(id))
	putDigits(frame[c.timeAt[c.next]:c.timeAt[c.next]+16], now)
}

func (c *wsConn) ack(id []byte, now, published int64) {
	request := c.take(slot{step: stepAck, sent: now, published: published})
	c.out = appendFrameHead(c.out, 0x81, len(`{"type":"ack","req_id":"000000","queue":"","id":""}`)+len(c.queue)+len(id))
	c.out = append(c.out, `{"type":"ack","req_id":"000000`...)
	putDigits(c.out[len(c.out)-6:], int64(request))
	c.out = append(c.out, `","queue":"`...)
	c.out = append(c.out, c.queue...)
	c.out = append(c.out, `","id":"`...)
	c.out = append(c.out, id...)
	c.out = append(c.out, `"}`...)
}

// wake ends the wait for deliveries. Publishers need none: their answers come.
func (c *wsConn) wake() {
	if c.mode != "publish" {
		_ = c.conn.SetReadDeadline(time.Now())
	}
}

func (c *wsConn) run(r *recorder) error {
	if c.mode != "publish" {
		c.out = appendFrame(c.out, []byte(`{"type":"subscribe","req_id":"999999","queue":"`+c.queue+`"}`))
	}
	if c.mode != "drain" {
		for i := 0; i < c.window && r.run.claim(); i++ {
			c.publish(r.run.now())
		}
	}
	for {
		if c.in.Buffered() == 0 {
			if err := c.flush(); err != nil {
				return err
			}
			// What is still on its way when time is over is left there: the queue is removed.
			if r.run.stopped.Load() && (c.mode != "publish" || c.pending == 0) {
				return nil
			}
			if c.mode == "publish" && c.pending == 0 {
				return nil
			}
		}
		frame, err := c.read()
		if err != nil {
			if r.run.stopped.Load() && c.mode != "publish" {
				return nil // woken at the end
			}
			return err
		}
		if err := c.handle(r, frame); err != nil {
			return err
		}
	}
}

func (c *wsConn) handle(r *recorder, frame []byte) error {
	now := r.run.now()
	// The type is in the first or, with keys in order of the alphabet, in a later place: look for it, not at it.
	if bytes.Contains(frame, []byte(`"type":"deliver"`)) {
		payload, id := field(frame, `"payload":"`), field(frame, `"id":"`)
		if len(payload) < 16 || id == nil {
			r.fail("deliver: no id or payload")
			return nil
		}
		published := number(payload[:16])
		if c.mode != "drain" {
			r.step(stepConsume, published, now)
		}
		if len(c.free) == 0 {
			return fmt.Errorf("more than %d acks without an answer", len(c.slots))
		}
		c.ack(id, now, published)
		return nil
	}
	ok := bytes.Contains(frame, []byte(`"type":"ok"`))
	request := number(field(frame, `"req_id":"`))
	if request == 999999 {
		if !ok {
			return fmt.Errorf("subscribe: %s", frame)
		}
		return nil
	}
	if request < 0 || int(request) >= len(c.slots) {
		r.fail("an answer to no request")
		return nil
	}
	s := c.slots[request]
	c.free = append(c.free, int(request))
	c.pending--
	if !ok {
		r.fail(stepNames[s.step] + ": " + string(field(frame, `"code":"`)))
	} else {
		r.step(s.step, s.sent, now)
	}
	switch {
	case c.mode == "publish":
		if ok {
			r.message(now)
		}
		if r.run.claim() {
			c.publish(now)
		}
	case s.step == stepAck:
		if ok {
			if c.mode != "drain" {
				r.step(stepCycle, s.published, now)
			}
			r.message(now)
		}
		if c.mode != "drain" && r.run.claim() {
			c.publish(now)
		}
	case !ok: // a refused publish comes to no ack; keep the number in flight
		if r.run.claim() {
			c.publish(now)
		}
	}
	return nil
}
