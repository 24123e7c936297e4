package main

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// postgresServer makes a priority queue out of a PostgreSQL table. Each step is one prepared statement, which is a
// transaction of its own and one round trip. The lowest number comes first, as in beanstalkd; within a priority, first
// in, first out.
//
// The primary key is the order of delivery, and the only index. No index has the time of the lease, so that taking a
// message writes a new version of its row within the page and leaves the index alone (HOT); fillfactor keeps room for
// it. A lease that has ended needs no sweep: its message is found again. Those in work are few and are skipped over.
//
// Each message leaves two dead rows, so the table is vacuumed by their number, not by their share, without pauses, and
// without giving back pages at its end, which would need a lock on all of it.
type postgresServer struct{ o *options }

const (
	postgresTable = `CREATE TABLE IF NOT EXISTS "%[1]s" (
		priority smallint NOT NULL,
		id bigint GENERATED ALWAYS AS IDENTITY,
		leased_until timestamptz NOT NULL DEFAULT '-infinity',
		attempts int NOT NULL DEFAULT 0,
		payload text NOT NULL,
		PRIMARY KEY (priority, id)
	) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
		autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off)`
	postgresPut  = `INSERT INTO "%[1]s" (priority, payload) VALUES ($1, $2)`
	postgresTake = `UPDATE "%[1]s" SET leased_until = now() + interval '30 seconds', attempts = attempts + 1
		WHERE (priority, id) = (SELECT priority, id FROM "%[1]s" WHERE leased_until < now()
			ORDER BY priority, id LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING priority, id, attempts, payload`
	// attempts tells this lease from a later one of the same message, as an ack must.
	postgresAck = `DELETE FROM "%[1]s" WHERE priority = $1 AND id = $2 AND attempts = $3`
)

// postgresPlans keeps to the index: a plan made while the queue was short would sort all of it once it is long.
const postgresPlans = "-c enable_seqscan=off -c enable_sort=off -c plan_cache_mode=force_generic_plan"

type postgresConn struct {
	*wire
	puts  [][]byte
	next  int
	lease [3][]byte // priority, id, attempts
	body  []byte
	done  []byte // the tag of the last statement that was carried out
}

func (s *postgresServer) create(queue string) error { return s.once(postgresTable, queue) }

func (s *postgresServer) remove(queue string) error { return s.once(`DROP TABLE "%[1]s"`, queue) }

func (s *postgresServer) once(form, queue string) error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	defer c.close()
	c.message('Q', func() { c.text(fmt.Sprintf(form, queue)) })
	_, err = c.answer()
	return err
}

func (s *postgresServer) connect() (*postgresConn, error) {
	w, err := dial(s.o.addr)
	if err != nil {
		return nil, err
	}
	c := &postgresConn{wire: w}
	c.message(0, func() {
		c.out = binary.BigEndian.AppendUint32(c.out, 3<<16) // the version of the protocol
		for _, part := range []string{"user", "postgres", "database", "postgres", "options", postgresPlans, ""} {
			c.text(part)
		}
	})
	_, err = c.answer()
	return c, err
}

func (s *postgresServer) prepared(index int, queue string) (*postgresConn, error) {
	c, err := s.connect()
	if err != nil {
		return nil, err
	}
	for name, form := range map[string]string{"put": postgresPut, "take": postgresTake, "ack": postgresAck} {
		c.message('P', func() {
			c.text(name)
			c.text(fmt.Sprintf(form, queue))
			c.short(0) // no types of parameters given
		})
		c.message('S', nil)
		if _, err := c.answer(); err != nil {
			return nil, err
		}
	}
	c.puts = pool(s.o, index, func(priority int, payload []byte) []byte {
		c.bind("put", strconv.AppendInt(nil, int64(priority), 10), payload)
		request := append([]byte(nil), c.out...)
		c.out = c.out[:0]
		return request
	})
	return c, nil
}

func (s *postgresServer) open(index int, queue string) (loop, error) {
	c, err := s.prepared(index, queue)
	return stepLoop{c, s.o.mode}, err
}

// fill puts a whole group into one transaction.
func (s *postgresServer) fill(queue string, count int64) error {
	c, err := s.prepared(s.o.connections, queue)
	if err != nil {
		return err
	}
	defer c.close()
	const group = 1000
	for done := int64(0); done < count; done += group {
		for range min(group, count-done) {
			c.out = append(c.out, c.following()...)
		}
		c.message('S', nil)
		if _, err := c.answer(); err != nil {
			return err
		}
	}
	return nil
}

func (c *postgresConn) following() []byte {
	c.next = (c.next + 1) % poolSize
	return c.puts[c.next]
}

// message appends one to out. The first message of a connection has no kind.
func (c *postgresConn) message(kind byte, body func()) {
	if kind != 0 {
		c.out = append(c.out, kind)
	}
	at := len(c.out)
	c.out = append(c.out, 0, 0, 0, 0)
	if body != nil {
		body()
	}
	binary.BigEndian.PutUint32(c.out[at:], uint32(len(c.out)-at))
}

func (c *postgresConn) text(p string) { c.out = append(append(c.out, p...), 0) }

func (c *postgresConn) short(n int) { c.out = binary.BigEndian.AppendUint16(c.out, uint16(n)) }

// bind appends the call of a prepared statement, its values in text.
func (c *postgresConn) bind(statement string, values ...[]byte) {
	c.message('B', func() {
		c.text("")
		c.text(statement)
		c.short(0)
		c.short(len(values))
		for _, value := range values {
			c.out = binary.BigEndian.AppendUint32(c.out, uint32(len(value)))
			c.out = append(c.out, value...)
		}
		c.short(0)
	})
	c.message('E', func() {
		c.text("")
		c.out = append(c.out, 0, 0, 0, 0) // all rows
	})
}

// answer sends what is in out and reads until the server is ready for more. It gives how many rows came, and leaves
// the first three values of the last in lease. After a refusal the connection goes on, unless the server has closed it.
func (c *postgresConn) answer() (rows int, err error) {
	if err := c.flush(); err != nil {
		return 0, err
	}
	var refused error
	for {
		var head [5]byte
		if _, err := readFull(c.in, head[:]); err != nil {
			if refused != nil {
				return 0, refused
			}
			return 0, err
		}
		size := int(binary.BigEndian.Uint32(head[1:])) - 4
		if cap(c.body) < size {
			c.body = make([]byte, size)
		}
		c.body = c.body[:size]
		if _, err := readFull(c.in, c.body); err != nil {
			return 0, err
		}
		switch head[0] {
		case 'D':
			rows++
			c.row()
		case 'C':
			c.done = append(c.done[:0], c.body[:len(c.body)-1]...)
		case 'E':
			refused = refusal(postgresError(c.body))
		case 'R':
			if binary.BigEndian.Uint32(c.body) != 0 {
				return 0, fmt.Errorf("PostgreSQL asks for a password")
			}
		case 'Z':
			return rows, refused
		}
	}
}

// row keeps the first values of a row.
func (c *postgresConn) row() {
	rest := c.body[2:]
	for i := range c.lease {
		size := int(binary.BigEndian.Uint32(rest))
		c.lease[i] = append(c.lease[i][:0], rest[4:4+size]...)
		rest = rest[4+size:]
	}
}

// postgresError is the code and the text of an error: fields of one letter and a text that ends with a zero.
func postgresError(body []byte) string {
	fields := map[byte]string{}
	for at := 0; at < len(body) && body[at] != 0; {
		end := at + 1
		for end < len(body) && body[end] != 0 {
			end++
		}
		fields[body[at]] = string(body[at+1 : end])
		at = end + 1
	}
	return fields['C'] + " " + fields['M']
}

func (c *postgresConn) publish() error {
	c.out = append(c.out, c.following()...)
	c.message('S', nil)
	_, err := c.answer()
	return err
}

func (c *postgresConn) consume() (bool, error) {
	c.bind("take")
	c.message('S', nil)
	rows, err := c.answer()
	return rows == 1, err
}

func (c *postgresConn) ack() error {
	c.bind("ack", c.lease[:]...)
	c.message('S', nil)
	_, err := c.answer()
	if err == nil && string(c.done) != "DELETE 1" {
		err = refusal("ack: " + string(c.done))
	}
	return err
}
