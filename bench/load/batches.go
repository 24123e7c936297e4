package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
)

// batchLoop publishes, consumes and acks many messages a request: this project's routes for batches.
type batchLoop struct {
	*httpConn
	o       *options
	bodies  [][]byte
	next    int
	take    []byte
	ackHead string
	ackTail string
}

// batchPool is smaller than poolSize, since each body holds many texts.
const batchPool = 16

func (s *httpServer) openBatches(index int, queue string) (loop, error) {
	c, err := s.connect(index, queue)
	if err != nil {
		return nil, err
	}
	l := &batchLoop{httpConn: c, o: s.o}
	random := rand.New(rand.NewPCG(2, uint64(index)))
	for range batchPool {
		var body bytes.Buffer
		fmt.Fprintf(&body, `{"queue":"%s","messages":[`, queue)
		for i := range s.o.batch {
			if i > 0 {
				body.WriteByte(',')
			}
			fmt.Fprintf(&body, `{"priority":%d,"payload":"%s"}`, random.IntN(s.o.priorities), text(random, s.o.payload))
		}
		body.WriteString("]}")
		l.bodies = append(l.bodies, httpRequest("POST", "/publish-batch", s.o.addr, body.String()))
	}
	consumer := fmt.Sprintf(`{"consumer_id":"load-%d-%d"`, os.Getpid(), index)
	l.take = httpRequest("POST", "/consume-batch/"+queue, s.o.addr,
		fmt.Sprintf(`%s,"max_messages":%d}`, consumer, s.o.batch))
	l.ackHead, l.ackTail = consumer+`,"message_ids":[`, "]}"
	return l, nil
}

func (l *batchLoop) wake() {}

func (l *batchLoop) run(c *recorder) error {
	for c.run.claim() {
		if err := l.once(c); err != nil {
			if answer, ok := err.(refusal); ok {
				c.fail(string(answer))
				continue
			}
			return err
		}
	}
	return nil
}

func (l *batchLoop) once(c *recorder) error {
	start := c.run.now()
	l.next = (l.next + 1) % batchPool
	if err := l.ask(l.bodies[l.next], "publish-batch"); err != nil {
		return err
	}
	if !bytes.HasSuffix(l.body, []byte(`"rejected":[]}`)) {
		return refusal("publish-batch: some were rejected")
	}
	published := c.run.now()
	c.step(stepPublish, start, published)
	if l.o.mode == "publish" {
		l.messages(c, l.o.batch, published)
		return nil
	}
	if err := l.ask(l.take, "consume-batch"); err != nil {
		return err
	}
	taken := c.run.now()
	c.step(stepConsume, published, taken)
	count := 0
	l.out = append(l.out[:0], l.ackHead...)
	for rest := l.body; ; count++ {
		at := bytes.Index(rest, []byte(`"id":"`))
		if at < 0 {
			break
		}
		if count > 0 {
			l.out = append(l.out, ',')
		}
		l.out = append(append(append(l.out, '"'), rest[at+6:at+42]...), '"')
		rest = rest[at+42:]
	}
	if count == 0 {
		c.empty++
		return nil
	}
	ack := httpRequest("POST", "/ack-batch/"+l.o.queue, l.o.addr, string(append(l.out, l.ackTail...)))
	if err := l.ask(ack, "ack-batch"); err != nil {
		return err
	}
	if !bytes.Contains(l.body, []byte(`"not_found":[]`)) {
		return refusal("ack-batch: some were not found")
	}
	end := c.run.now()
	c.step(stepAck, taken, end)
	c.step(stepCycle, start, end)
	l.messages(c, count, end)
	return nil
}

func (l *batchLoop) messages(c *recorder, count int, end int64) {
	for range count {
		c.message(end)
	}
}
