package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
)

// redisServer makes a priority queue with acknowledgment out of Redis, which has none of its own: a sorted set of ids
// by priority, a hash of payloads by id, and a sorted set of the ids in work by the end of their lease. Each step is
// one script, so one round trip, atomic and one append to the log. Ids begin with their time, and equal scores sort by
// id: first in, first out within a priority.
type redisServer struct{ o *options }

const (
	putScript  = `redis.call('HSET',KEYS[2],ARGV[2],ARGV[3]) return redis.call('ZADD',KEYS[1],ARGV[1],ARGV[2])`
	takeScript = `local r=redis.call('ZPOPMIN',KEYS[1]) if #r==0 then return false end ` +
		`redis.call('ZADD',KEYS[3],ARGV[1],r[1]) return {r[1],redis.call('HGET',KEYS[2],r[1])}`
	ackScript = `if redis.call('ZREM',KEYS[3],ARGV[1])==0 then return 0 end return redis.call('HDEL',KEYS[2],ARGV[1])`
)

type redisConn struct {
	*wire
	keys     [3]string
	payloads [][]byte
	scores   []string
	shas     [3]string
	next     int
	index    int
	serial   int64
	id       []byte
}

func (s *redisServer) create(string) error { return nil }

func (s *redisServer) remove(queue string) error {
	c, err := s.connect(0, queue)
	if err != nil {
		return err
	}
	defer c.close()
	c.command("UNLINK", c.keys[0], c.keys[1], c.keys[2])
	if err := c.flush(); err != nil {
		return err
	}
	_, err = c.reply()
	return err
}

func (s *redisServer) connect(index int, queue string) (*redisConn, error) {
	w, err := dial(s.o.addr)
	if err != nil {
		return nil, err
	}
	c := &redisConn{wire: w, index: index, keys: [3]string{queue + ":ready", queue + ":payloads", queue + ":working"}}
	c.payloads = pool(s.o, index, func(priority int, payload []byte) []byte {
		c.scores = append(c.scores, strconv.Itoa(priority))
		return payload
	})
	for i, script := range [3]string{putScript, takeScript, ackScript} {
		sum := sha1.Sum([]byte(script))
		c.shas[i] = hex.EncodeToString(sum[:])
		c.command("SCRIPT", "LOAD", script)
		if err := c.flush(); err != nil {
			return nil, err
		}
		if _, err := c.reply(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (s *redisServer) open(index int, queue string) (loop, error) {
	c, err := s.connect(index, queue)
	return stepLoop{c, s.o.mode}, err
}

func (s *redisServer) fill(queue string, count int64) error {
	c, err := s.connect(s.o.connections, queue)
	if err != nil {
		return err
	}
	defer c.close()
	return fillPipelined(count, c.wire, c.addPut, func() error {
		_, err := c.reply()
		return err
	})
}

// command appends one request to out.
func (c *redisConn) command(parts ...string) {
	c.head(len(parts))
	for _, part := range parts {
		c.out = appendBulk(c.out, part)
	}
}

func (c *redisConn) head(parts int) {
	c.out = append(c.out, '*')
	c.out = strconv.AppendInt(c.out, int64(parts), 10)
	c.out = append(c.out, "\r\n"...)
}

func appendBulk[T string | []byte](p []byte, part T) []byte {
	p = append(p, '$')
	p = strconv.AppendInt(p, int64(len(part)), 10)
	p = append(p, "\r\n"...)
	p = append(p, part...)
	return append(p, "\r\n"...)
}

// script appends the call of one script up to its arguments.
func (c *redisConn) script(which, arguments int) {
	c.head(6 + arguments)
	c.out = appendBulk(c.out, "EVALSHA")
	c.out = appendBulk(c.out, c.shas[which])
	c.out = appendBulk(c.out, "3")
	for _, key := range c.keys {
		c.out = appendBulk(c.out, key)
	}
}

func (c *redisConn) addPut() {
	c.next = (c.next + 1) % poolSize
	c.serial++
	var id [36]byte // as long as a UUID in text
	putDigits(id[:20], time.Now().UnixNano())
	id[20] = '-'
	putDigits(id[21:26], int64(c.index))
	id[26] = '-'
	putDigits(id[27:], c.serial)
	c.script(0, 3)
	c.out = appendBulk(c.out, c.scores[c.next])
	c.out = appendBulk(c.out, id[:])
	c.out = appendBulk(c.out, c.payloads[c.next])
}

// reply reads one answer. Of an array of texts the first is given; nil stands for nothing.
func (c *redisConn) reply() ([]byte, error) {
	line, err := c.line()
	if err != nil {
		return nil, err
	}
	if len(line) == 0 {
		return nil, fmt.Errorf("an empty line for an answer")
	}
	switch line[0] {
	case '+', ':':
		return line[1:], nil
	case '-':
		return nil, refusal(line[1:])
	case '$':
		size := int(number(line[1:]))
		if size < 0 {
			return nil, nil
		}
		value := make([]byte, size+2)
		_, err := readFull(c.in, value)
		return value[:size], err
	case '*':
		var first []byte
		for i := range number(line[1:]) {
			item, err := c.reply()
			if err != nil {
				return nil, err
			}
			if i == 0 {
				first = item
			}
		}
		return first, nil
	}
	return nil, fmt.Errorf("not a Redis answer: %q", line)
}

func (c *redisConn) publish() error {
	c.addPut()
	if err := c.flush(); err != nil {
		return err
	}
	_, err := c.reply()
	return err
}

func (c *redisConn) consume() (bool, error) {
	c.script(1, 1)
	c.out = appendBulk(c.out, strconv.FormatInt(time.Now().Unix()+30, 10))
	if err := c.flush(); err != nil {
		return false, err
	}
	id, err := c.reply()
	c.id = id
	return id != nil, err
}

func (c *redisConn) ack() error {
	c.script(2, 1)
	c.out = appendBulk(c.out, c.id)
	if err := c.flush(); err != nil {
		return err
	}
	answer, err := c.reply()
	if err == nil && !bytes.Equal(answer, []byte("1")) {
		err = refusal("ack: not in work")
	}
	return err
}
