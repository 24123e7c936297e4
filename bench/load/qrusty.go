package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// httpServer speaks the HTTP routes that qrusty and this project's server share.
type httpServer struct{ o *options }

type httpConn struct {
	*wire
	publishes [][]byte
	next      int
	take      []byte
	ackHead   []byte
	ackTail   []byte
	id        [64]byte
	idLength  int
	body      []byte
	changed   []byte
	headers   *changingHeaders // nil: every request has the same
}

// changingHeaders are put in front of the empty line of each request: as long each time, and never the same.
type changingHeaders struct {
	lines  []byte
	number uint64
}

const changingForm = "\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-%016x-01\r\nX-Request-Id: load-%016x"

func (h *changingHeaders) next() []byte {
	h.number++
	h.lines = fmt.Appendf(h.lines[:0], changingForm, h.number, h.number)
	return h.lines
}

// token is shown with each request, if there is one.
var token string

func authorization() string {
	if token == "" {
		return ""
	}
	return "Authorization: Bearer " + token + "\r\n"
}

func httpRequest(method, path, host, body string) []byte {
	return []byte(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		method, path, host, authorization(), len(body), body))
}

func (s *httpServer) connect(index int, queue string) (*httpConn, error) {
	w, err := dial(s.o.addr)
	if err != nil {
		return nil, err
	}
	consumer := fmt.Sprintf(`{"consumer_id":"load-%d-%d"`, os.Getpid(), index)
	c := &httpConn{wire: w}
	if s.o.changing {
		c.headers = &changingHeaders{number: uint64(index) << 40}
	}
	c.publishes = pool(s.o, index, func(priority int, payload []byte) []byte {
		return httpRequest("POST", "/publish", s.o.addr,
			fmt.Sprintf(`{"queue":"%s","priority":%d,"payload":"%s"}`, queue, priority, payload))
	})
	c.take = httpRequest("POST", "/consume/"+queue, s.o.addr, consumer+`,"timeout_seconds":30}`)
	ack := httpRequest("POST", "/ack/"+queue+"/", s.o.addr, consumer+"}")
	cut := bytes.Index(ack, []byte(" HTTP/1.1"))
	c.ackHead, c.ackTail = ack[:cut], ack[cut:]
	return c, nil
}

func (s *httpServer) open(index int, queue string) (loop, error) {
	if s.o.batch > 0 {
		return s.openBatches(index, queue)
	}
	c, err := s.connect(index, queue)
	return stepLoop{c, s.o.mode}, err
}

// once sends one request over a connection of its own.
func (s *httpServer) once(method, path, body string, allowed ...int) error {
	w, err := dial(s.o.addr)
	if err != nil {
		return err
	}
	defer w.close()
	c := &httpConn{wire: w}
	if err := c.send(httpRequest(method, path, s.o.addr, body)); err != nil {
		return err
	}
	status, err := c.answer()
	if err != nil {
		return err
	}
	for _, good := range allowed {
		if status == good {
			return nil
		}
	}
	return fmt.Errorf("%s %s: status %d: %s", method, path, status, c.body)
}

func (s *httpServer) create(queue string) error {
	return s.once("POST", "/create-queue", `{"name":"`+queue+`","config":{"ordering":"MaxFirst"}}`, 200, 409)
}

func (s *httpServer) remove(queue string) error {
	return s.once("DELETE", "/delete-queue/"+queue, "", 200)
}

// fill goes over WebSocket, where requests need not wait for each other.
func (s *httpServer) fill(queue string, count int64) error { return wsFill(s.o, queue, count) }

// answer reads one answer whole; the body is in c.body.
func (c *httpConn) answer() (int, error) {
	line, err := c.line()
	if err != nil {
		return 0, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, fmt.Errorf("not an HTTP answer: %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, err
	}
	length := -1
	for {
		if line, err = c.line(); err != nil {
			return 0, err
		}
		if len(line) == 0 {
			break
		}
		const name = "content-length:"
		if len(line) > len(name) && line[0]|0x20 == 'c' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, fmt.Errorf("an answer without Content-Length, status %d", status)
	}
	if c.body = c.body[:0]; length > 0 {
		if cap(c.body) < length {
			c.body = make([]byte, 0, length)
		}
		c.body = c.body[:length]
		if _, err := readFull(c.in, c.body); err != nil {
			return 0, err
		}
	}
	return status, nil
}

func (c *httpConn) ask(request []byte, step string) error {
	if err := c.send(request); err != nil {
		return err
	}
	status, err := c.answer()
	if err == nil && status != 200 {
		err = refusal(fmt.Sprintf("%s: status %d", step, status))
	}
	return err
}

// whole is the request as it is sent.
func (c *httpConn) whole(request []byte) []byte {
	if c.headers == nil {
		return request
	}
	end := bytes.Index(request, []byte("\r\n\r\n"))
	c.changed = append(append(append(c.changed[:0], request[:end]...), c.headers.next()...), request[end:]...)
	return c.changed
}

func (c *httpConn) publish() error {
	c.next = (c.next + 1) % poolSize
	return c.ask(c.whole(c.publishes[c.next]), "publish")
}

func (c *httpConn) consume() (bool, error) {
	if err := c.ask(c.whole(c.take), "consume"); err != nil {
		return false, err
	}
	if bytes.Equal(c.body, []byte("null")) {
		return false, nil
	}
	id := field(c.body, `"id":"`)
	if id == nil || len(id) > len(c.id) {
		return false, refusal("consume: no id in the answer")
	}
	c.idLength = copy(c.id[:], id)
	return true, nil
}

func (c *httpConn) ack() error {
	c.out = append(c.out[:0], c.ackHead...)
	c.out = append(c.out, c.id[:c.idLength]...)
	c.out = append(c.out, c.ackTail...)
	return c.ask(c.whole(c.out), "ack")
}

// field finds the text value that follows a mark such as `"id":"`. Payloads here hold no quotes, so the first is it.
func field(body []byte, mark string) []byte {
	at := bytes.Index(body, []byte(mark))
	if at < 0 {
		return nil
	}
	rest := body[at+len(mark):]
	end := bytes.IndexByte(rest, '"')
	if end < 0 {
		return nil
	}
	return rest[:end]
}
