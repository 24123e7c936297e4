package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// amqpServer speaks AMQP 0-9-1 to RabbitMQ: a durable queue with x-max-priority, persistent messages, publisher
// confirms. A consume is the delivery to a consumer with prefetch 1, which RabbitMQ recommends (-amqp-get: basic.get).
// The protocol answers no ack: a cycle ends when the ack has been written.
type amqpServer struct{ o *options }

// Method numbers: class << 16 | method.
const (
	connectionStart  = 10<<16 | 10
	connectionTune   = 10<<16 | 30
	connectionOpenOK = 10<<16 | 41
	channelOpenOK    = 20<<16 | 11
	queueDeclareOK   = 50<<16 | 11
	queueDeleteOK    = 50<<16 | 41
	qosOK            = 60<<16 | 11
	consumeOK        = 60<<16 | 21
	deliver          = 60<<16 | 60
	getOK            = 60<<16 | 71
	getEmpty         = 60<<16 | 72
	confirmed        = 60<<16 | 80
	confirmSelectOK  = 85<<16 | 11
)

type amqpConn struct {
	*wire
	queue     string
	get       bool
	pushed    bool // deliveries come by themselves
	consuming bool
	publishes [][]byte
	next      int
	frame     []byte
	tag       uint64 // of the message in hand
	inHand    bool
	content   int64 // bytes of the body still to come, -1: its header is still to come
}

func (s *amqpServer) dial() (*amqpConn, error) {
	w, err := dial(s.o.addr)
	if err != nil {
		return nil, err
	}
	// In a drain, a message sent ahead to a connection that is done would never be taken.
	c := &amqpConn{wire: w, get: s.o.amqpGet || s.o.mode == "drain"}
	c.pushed = !c.get && s.o.mode != "publish"
	if err := c.send([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return nil, err
	}
	if _, err := c.await(connectionStart); err != nil {
		return nil, err
	}
	c.method(0, 10, 11, table(), short("PLAIN"), long("\x00guest\x00guest"), short("en_US"))
	if err := c.flush(); err != nil {
		return nil, err
	}
	tune, err := c.await(connectionTune)
	if err != nil {
		return nil, err
	}
	limits := append(append([]byte{}, tune[:6]...), 0, 0) // no heartbeats
	c.method(0, 10, 31, limits)
	c.method(0, 10, 40, short("/"), short(""), []byte{0})
	if err := c.call(connectionOpenOK); err != nil {
		return nil, err
	}
	c.method(1, 20, 10, short(""))
	return c, c.call(channelOpenOK)
}

func (s *amqpServer) create(queue string) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	defer c.close()
	const durable = 2
	most := append([]byte("\x0ex-max-priority"), 'I', 0, 0, 0, byte(min(s.o.priorities, 255)))
	c.method(1, 50, 10, []byte{0, 0}, short(queue), []byte{durable}, table(most...))
	return c.call(queueDeclareOK)
}

func (s *amqpServer) remove(queue string) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	defer c.close()
	c.method(1, 50, 40, []byte{0, 0}, short(queue), []byte{0})
	return c.call(queueDeleteOK)
}

func (s *amqpServer) connect(index int, queue string) (*amqpConn, error) {
	c, err := s.dial()
	if err != nil {
		return nil, err
	}
	c.queue = queue
	c.publishes = pool(s.o, index, func(priority int, payload []byte) []byte {
		p := appendMethod(nil, 1, 60, 40, []byte{0, 0}, short(""), short(queue), []byte{0})
		header := []byte{0, 60, 0, 0}
		header = binary.BigEndian.AppendUint64(header, uint64(len(payload)))
		header = append(header, 0x18, 0x00, 2, byte(priority)) // flags: delivery mode (persistent), priority
		p = appendAMQPFrame(p, 2, 1, header)
		const part = 64 * 1024 // well under the frame size that RabbitMQ offers
		for start := 0; start < len(payload); start += part {
			p = appendAMQPFrame(p, 3, 1, payload[start:min(start+part, len(payload))])
		}
		return p
	})
	c.method(1, 85, 10, []byte{0})
	if err := c.call(confirmSelectOK); err != nil {
		return nil, err
	}
	c.method(1, 60, 10, []byte{0, 0, 0, 0, 0, 1, 0}) // prefetch 1
	return c, c.call(qosOK)
}

func (s *amqpServer) open(index int, queue string) (loop, error) {
	c, err := s.connect(index, queue)
	return stepLoop{c, s.o.mode}, err
}

func (s *amqpServer) fill(queue string, count int64) error {
	c, err := s.connect(s.o.connections, queue)
	if err != nil {
		return err
	}
	defer c.close()
	// Confirms may stand for several at once: read until the last number is confirmed.
	const group = 1024
	for done := int64(0); done < count; {
		n := min(group, count-done)
		for range n {
			c.out = append(c.out, c.following()...)
		}
		if err := c.flush(); err != nil {
			return err
		}
		done += n
		if err := c.confirmAll(done, n); err != nil {
			return err
		}
	}
	return nil
}

// confirmAll reads confirms until n more have come, the highest being number last.
func (c *amqpConn) confirmAll(last, n int64) error {
	settled := uint64(last - n) // all up to here
	ahead := map[uint64]struct{}{}
	for settled+uint64(len(ahead)) < uint64(last) {
		arguments, err := c.await(confirmed)
		if err != nil {
			return err
		}
		tag := binary.BigEndian.Uint64(arguments)
		if arguments[8]&1 == 0 {
			ahead[tag] = struct{}{}
			continue
		}
		settled = max(settled, tag)
		for one := range ahead {
			if one <= settled {
				delete(ahead, one)
			}
		}
	}
	return nil
}

func (c *amqpConn) following() []byte {
	c.next = (c.next + 1) % poolSize
	return c.publishes[c.next]
}

func short(s string) []byte { return append([]byte{byte(len(s))}, s...) }

func long(s string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
}

func table(fields ...byte) []byte { return long(string(fields)) }

func appendAMQPFrame(p []byte, kind byte, channel uint16, body []byte) []byte {
	p = append(p, kind)
	p = binary.BigEndian.AppendUint16(p, channel)
	p = binary.BigEndian.AppendUint32(p, uint32(len(body)))
	p = append(p, body...)
	return append(p, 0xCE)
}

func appendMethod(p []byte, channel, class, method uint16, arguments ...[]byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, class)
	body = binary.BigEndian.AppendUint16(body, method)
	for _, argument := range arguments {
		body = append(body, argument...)
	}
	return appendAMQPFrame(p, 1, channel, body)
}

func (c *amqpConn) method(channel, class, method uint16, arguments ...[]byte) {
	c.out = appendMethod(c.out, channel, class, method, arguments...)
}

// read takes in one frame. For a method it gives its number and arguments, good until the next read; else 0.
// Deliveries are noted on the way: one is in hand once its whole body has come.
func (c *amqpConn) read() (uint32, []byte, error) {
	head, err := c.in.Peek(7)
	if err != nil {
		return 0, nil, err
	}
	kind, size := head[0], int(binary.BigEndian.Uint32(head[3:]))
	_, _ = c.in.Discard(7)
	if cap(c.frame) < size+1 {
		c.frame = make([]byte, size+1)
	}
	c.frame = c.frame[:size+1]
	if _, err := io.ReadFull(c.in, c.frame); err != nil {
		return 0, nil, err
	}
	switch kind {
	case 2:
		c.body(int64(binary.BigEndian.Uint64(c.frame[4:])))
	case 3:
		c.body(c.content - int64(size))
	case 1:
		method, arguments := binary.BigEndian.Uint32(c.frame), c.frame[4:size]
		switch method {
		case deliver:
			c.tag, c.content = binary.BigEndian.Uint64(arguments[1+int(arguments[0]):]), -1
		case getOK:
			c.tag, c.content = binary.BigEndian.Uint64(arguments), -1
		}
		return method, arguments, nil
	}
	return 0, nil, nil
}

func (c *amqpConn) body(left int64) {
	c.content = left
	c.inHand = left == 0
}

// await reads until the method asked for comes. Any other but a delivery is a refusal.
func (c *amqpConn) await(want uint32) ([]byte, error) {
	for {
		method, arguments, err := c.read()
		switch {
		case err != nil:
			return nil, err
		case method == want:
			return arguments, nil
		case method == 10<<16|50 || method == 20<<16|40:
			return nil, fmt.Errorf("the server closed the connection: %q", arguments)
		case method != 0 && method != deliver:
			return nil, refusal(fmt.Sprintf("method %d.%d instead of %d.%d", method>>16, method&0xffff, want>>16, want&0xffff))
		}
	}
}

func (c *amqpConn) call(want uint32) error {
	if err := c.flush(); err != nil {
		return err
	}
	_, err := c.await(want)
	return err
}

// wake ends the wait for a delivery.
func (c *amqpConn) wake() {
	if c.pushed {
		_ = c.conn.SetReadDeadline(time.Now())
	}
}

func (c *amqpConn) publish() error {
	if err := c.send(c.following()); err != nil {
		return err
	}
	_, err := c.await(confirmed)
	return err
}

func (c *amqpConn) consume() (bool, error) {
	if c.get {
		c.method(1, 60, 70, []byte{0, 0}, short(c.queue), []byte{0})
		if err := c.flush(); err != nil {
			return false, err
		}
		for {
			method, _, err := c.read()
			if err != nil || method == getEmpty {
				return false, err
			}
			if c.inHand {
				return true, nil
			}
		}
	}
	if !c.consuming {
		c.consuming = true
		c.method(1, 60, 20, []byte{0, 0}, short(c.queue), short(""), []byte{0}, table())
		if err := c.call(consumeOK); err != nil {
			return false, err
		}
	}
	for !c.inHand {
		if _, _, err := c.read(); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (c *amqpConn) ack() error {
	c.inHand = false
	c.method(1, 60, 80, binary.BigEndian.AppendUint64(nil, c.tag), []byte{0})
	return c.flush()
}
