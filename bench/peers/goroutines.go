// The goroutine program that creche's idea comes from: per task a goroutine with a context that ends after an hour,
// a heartbeat goroutine (a SET in Redis every 2 s, its own command each time), a timer that polls at once and then
// every 3 s, and one shared http.Transport. Standard library only; of Redis it needs one command.
//
//	goroutines URL TASKS [REDIS_SOCKET]
//
// It has neither store nor API: what it is compared on is the minding.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

const (
	deadline       = time.Hour
	pollEvery      = 3 * time.Second
	beatEvery      = 2 * time.Second
	beatExpires    = 24 * 60 * 60
	maxFailures    = 5
	idleConnection = 90 * time.Second
)

// redisPool is a pool of connections as the usual clients have one: take, write a command, read its answer, put back.
type redisPool struct {
	path string
	idle chan *redisConnection
}

type redisConnection struct {
	net.Conn
	reader *bufio.Reader
}

func newRedisPool(path string, size int) *redisPool {
	pool := &redisPool{path: path, idle: make(chan *redisConnection, size)}
	for i := 0; i < size; i++ {
		pool.idle <- nil // connected when first needed
	}
	return pool
}

func (pool *redisPool) set(ctx context.Context, key, value string, seconds int) error {
	var connection *redisConnection
	select {
	case connection = <-pool.idle:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { pool.idle <- connection }()
	if connection == nil {
		dialled, err := net.Dial("unix", pool.path)
		if err != nil {
			return err
		}
		connection = &redisConnection{dialled, bufio.NewReader(dialled)}
	}
	expires := strconv.Itoa(seconds)
	command := fmt.Sprintf("*5\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n$2\r\nEX\r\n$%d\r\n%s\r\n",
		len(key), key, len(value), value, len(expires), expires)
	if _, err := io.WriteString(connection, command); err != nil {
		connection.Close()
		connection = nil
		return err
	}
	answer, err := connection.reader.ReadString('\n')
	if err != nil {
		connection.Close()
		connection = nil
		return err
	}
	if answer != "+OK\r\n" {
		return fmt.Errorf("redis: %q", answer)
	}
	return nil
}

type job struct {
	ID       string          `json:"id"`
	Status   string          `json:"status"`
	Progress float64         `json:"progress"`
	Output   json.RawMessage `json:"output"`
	Error    json.RawMessage `json:"error"`
}

type program struct {
	base   string
	client *http.Client
	redis  *redisPool
}

func (p *program) mind(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	if p.redis != nil {
		go p.beat(ctx, id)
	}
	failures := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			log.Printf("%s: timed out", id)
			return
		case <-timer.C:
			found, err := p.ask(ctx, id)
			if err != nil {
				if failures++; failures == maxFailures {
					log.Printf("%s: given up: %v", id, err)
					return
				}
			} else if failures = 0; found.Status != "running" {
				log.Printf("%s: %s", id, found.Status)
				return
			}
			timer.Reset(pollEvery)
		}
	}
}

func (p *program) beat(ctx context.Context, id string) {
	key := "creche:heartbeat:" + id
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		if err := p.redis.set(ctx, key, strconv.FormatInt(time.Now().Unix(), 10), beatExpires); err != nil && ctx.Err() == nil {
			log.Printf("%s: heartbeat: %v", id, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (p *program) ask(ctx context.Context, id string) (*job, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+"/v1/jobs/"+id, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	response, err := p.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP %d", response.StatusCode)
	}
	found := new(job)
	return found, json.Unmarshal(body, found)
}

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: goroutines URL TASKS [REDIS_SOCKET]")
	}
	tasks, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	transport := &http.Transport{
		MaxIdleConns: 0, MaxIdleConnsPerHost: 10000, IdleConnTimeout: idleConnection, DisableCompression: true,
	}
	p := &program{base: os.Args[1], client: &http.Client{Transport: transport, Timeout: 30 * time.Second}}
	if len(os.Args) > 3 {
		p.redis = newRedisPool(os.Args[3], 10) // what go-redis has for one processor
	}
	var all sync.WaitGroup
	for n := 0; n < tasks; n++ {
		all.Add(1)
		go func(id string) {
			defer all.Done()
			p.mind(context.Background(), id)
		}(fmt.Sprintf("job-%d", n))
		time.Sleep(pollEvery / time.Duration(tasks)) // spread over the first interval, as tasks come in
	}
	all.Wait()
}
