package main

import (
	"bytes"
	"fmt"
)

// beanstalkdServer speaks beanstalkd's protocol: put, reserve-with-timeout 0, delete. A tube is a queue; the lowest
// priority number comes first there, which makes no difference to the load.
type beanstalkdServer struct{ o *options }

type beanstalkdConn struct {
	*wire
	publishes [][]byte
	next      int
	id        []byte
}

// Tubes are made by use and go when they are empty, so there is nothing to create.
func (s *beanstalkdServer) create(string) error { return nil }

// remove drains the tube: the protocol has no other way.
func (s *beanstalkdServer) remove(queue string) error {
	c, err := s.connect(0, queue)
	if err != nil {
		return err
	}
	defer c.close()
	for {
		found, err := c.consume()
		if err != nil || !found {
			return err
		}
		if err := c.ack(); err != nil {
			return err
		}
	}
}

func (s *beanstalkdServer) connect(index int, queue string) (*beanstalkdConn, error) {
	w, err := dial(s.o.addr)
	if err != nil {
		return nil, err
	}
	c := &beanstalkdConn{wire: w}
	c.publishes = pool(s.o, index, func(priority int, payload []byte) []byte {
		return []byte(fmt.Sprintf("put %d 0 30 %d\r\n%s\r\n", priority, len(payload), payload))
	})
	for _, ask := range [][2]string{{"use " + queue, "USING "}, {"watch " + queue, "WATCHING "}, {"ignore default", "WATCHING "}} {
		if err := c.send([]byte(ask[0] + "\r\n")); err != nil {
			return nil, err
		}
		if _, err := c.expect(ask[1], "setting up"); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (s *beanstalkdServer) open(index int, queue string) (loop, error) {
	c, err := s.connect(index, queue)
	return stepLoop{c, s.o.mode}, err
}

func (s *beanstalkdServer) fill(queue string, count int64) error {
	c, err := s.connect(0, queue)
	if err != nil {
		return err
	}
	defer c.close()
	return fillPipelined(count, c.wire, func() { c.out = append(c.out, c.following()...) }, func() error {
		_, err := c.expect("INSERTED ", "publish")
		return err
	})
}

// fillPipelined sends count requests in groups and reads each group's answers.
func fillPipelined(count int64, w *wire, add func(), answer func() error) error {
	const group = 256
	for done := int64(0); done < count; {
		n := min(group, count-done)
		for range n {
			add()
		}
		if err := w.flush(); err != nil {
			return err
		}
		for range n {
			if err := answer(); err != nil {
				return err
			}
		}
		done += n
	}
	return nil
}

func (c *beanstalkdConn) following() []byte {
	c.next = (c.next + 1) % poolSize
	return c.publishes[c.next]
}

func (c *beanstalkdConn) expect(prefix, step string) ([]byte, error) {
	line, err := c.line()
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(line, []byte(prefix)) {
		return line, refusal(fmt.Sprintf("%s: %s", step, line))
	}
	return line[len(prefix):], nil
}

func (c *beanstalkdConn) publish() error {
	if err := c.send(c.following()); err != nil {
		return err
	}
	_, err := c.expect("INSERTED ", "publish")
	return err
}

var (
	reserveNow = []byte("reserve-with-timeout 0\r\n")
	timedOut   = []byte("TIMED_OUT")
)

func (c *beanstalkdConn) consume() (bool, error) {
	if err := c.send(reserveNow); err != nil {
		return false, err
	}
	rest, err := c.expect("RESERVED ", "consume")
	if err != nil {
		if bytes.Equal(rest, timedOut) {
			return false, nil
		}
		return false, err
	}
	space := bytes.IndexByte(rest, ' ')
	if space < 0 {
		return false, fmt.Errorf("reserved without a size: %q", rest)
	}
	c.id = append(c.id[:0], rest[:space]...)
	size := number(rest[space+1:])
	if _, err := c.in.Discard(int(size) + 2); err != nil {
		return false, err
	}
	return true, nil
}

func (c *beanstalkdConn) ack() error {
	c.out = append(append(append(c.out[:0], "delete "...), c.id...), "\r\n"...)
	if err := c.flush(); err != nil {
		return err
	}
	_, err := c.expect("DELETED", "ack")
	return err
}
