// amqp091-go: `program SCENARIO URL PREFIX` prints what came of it as JSON.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	directReplyTo = "amq.rabbitmq.reply-to"
	patience      = 20 * time.Second
)

type object map[string]interface{}

type scenario func(connection *amqp.Connection, prefix string) object

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func open(connection *amqp.Connection) *amqp.Channel {
	channel, err := connection.Channel()
	check(err)
	return channel
}

func exclusiveQueue(channel *amqp.Channel) string {
	queue, err := channel.QueueDeclare("", false, false, true, false, nil)
	check(err)
	return queue.Name
}

func exchange(channel *amqp.Channel, name, kind string) {
	check(channel.ExchangeDeclare(name, kind, false, true, false, false, nil))
}

func bind(channel *amqp.Channel, queue, key, exchange string) {
	check(channel.QueueBind(queue, key, exchange, false, nil))
}

func publish(channel *amqp.Channel, exchange, key string, message amqp.Publishing) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	check(channel.PublishWithContext(ctx, exchange, key, false, false, message))
}

func text(body string) amqp.Publishing {
	return amqp.Publishing{ContentType: "text/plain", Body: []byte(body)}
}

func consume(channel *amqp.Channel, queue string, autoAck bool) <-chan amqp.Delivery {
	deliveries, err := channel.Consume(queue, "", autoAck, false, false, false, nil)
	check(err)
	return deliveries
}

func next(deliveries <-chan amqp.Delivery) amqp.Delivery {
	select {
	case delivery, ok := <-deliveries:
		if !ok {
			log.Fatal("the consumer was closed")
		}
		return delivery
	case <-time.After(patience):
		log.Fatal("no delivery came")
	}
	panic("unreachable")
}

func bodies(deliveries <-chan amqp.Delivery, count int) []string {
	result := []string{}
	for len(result) < count {
		result = append(result, string(next(deliveries).Body))
	}
	return result
}

func workQueue(connection *amqp.Connection, prefix string) object {
	tasks := prefix + ".tasks"
	channel := open(connection)
	_, err := channel.QueueDeclare(tasks, true, false, false, false, nil)
	check(err)
	for number := 0; number < 6; number++ {
		message := text(fmt.Sprintf("task %d", number))
		message.DeliveryMode = amqp.Persistent
		publish(channel, "", tasks, message)
	}
	finished := make(chan string)
	workers := []*amqp.Channel{open(connection), open(connection)}
	for _, worker := range workers {
		check(worker.Qos(1, 0, false))
		deliveries := consume(worker, tasks, false)
		go func() {
			for delivery := range deliveries {
				check(delivery.Ack(false))
				finished <- string(delivery.Body)
			}
		}()
	}
	done := []string{}
	for len(done) < 6 {
		done = append(done, <-finished)
	}
	sort.Strings(done)
	for _, worker := range workers {
		check(worker.Close())
	}
	left, err := channel.QueueDelete(tasks, false, false, false)
	check(err)
	return object{"done": done, "left": left}
}

func publishSubscribe(connection *amqp.Connection, prefix string) object {
	logs := prefix + ".logs"
	channel := open(connection)
	exchange(channel, logs, "fanout")
	serverNamed := true
	inboxes := []<-chan amqp.Delivery{}
	for number := 0; number < 2; number++ {
		queue := exclusiveQueue(channel)
		serverNamed = serverNamed && strings.HasPrefix(queue, "amq.gen-")
		bind(channel, queue, "", logs)
		inboxes = append(inboxes, consume(channel, queue, true))
	}
	for _, line := range []string{"one", "two", "three"} {
		publish(channel, logs, "", text(line))
	}
	subscribers := [][]string{bodies(inboxes[0], 3), bodies(inboxes[1], 3)}
	return object{"subscribers": subscribers, "server_named": serverNamed}
}

func routing(connection *amqp.Connection, prefix string) object {
	logs := prefix + ".logs"
	channel := open(connection)
	exchange(channel, logs, "direct")
	disk, screen := exclusiveQueue(channel), exclusiveQueue(channel)
	bind(channel, disk, "error", logs)
	for _, key := range []string{"info", "warning", "error"} {
		bind(channel, screen, key, logs)
	}
	for _, key := range []string{"info", "debug", "error", "warning"} {
		publish(channel, logs, key, text(key))
	}
	return object{
		"screen": bodies(consume(channel, screen, true), 3),
		"disk":   bodies(consume(channel, disk, true), 1),
	}
}

func topics(connection *amqp.Connection, prefix string) object {
	animals := prefix + ".animals"
	channel := open(connection)
	exchange(channel, animals, "topic")
	orange, lazy := exclusiveQueue(channel), exclusiveQueue(channel)
	bind(channel, orange, "*.orange.*", animals)
	bind(channel, lazy, "*.*.rabbit", animals)
	bind(channel, lazy, "lazy.#", animals)
	keys := []string{"quick.orange.rabbit", "lazy.orange.fox", "quick.brown.fox", "lazy", "orange"}
	for _, key := range keys {
		publish(channel, animals, key, text(key))
	}
	return object{
		"orange": bodies(consume(channel, orange, true), 2),
		"lazy":   bodies(consume(channel, lazy, true), 3),
	}
}

func serveSquares(server *amqp.Channel, requests <-chan amqp.Delivery) {
	for request := range requests {
		number, err := strconv.Atoi(string(request.Body))
		check(err)
		reply := text(strconv.Itoa(number * number))
		reply.CorrelationId = request.CorrelationId
		publish(server, "", request.ReplyTo, reply)
		check(request.Ack(false))
	}
}

func rpc(connection *amqp.Connection, prefix string) object {
	requests := prefix + ".requests"
	server := open(connection)
	_, err := server.QueueDeclare(requests, false, true, false, false, nil)
	check(err)
	go serveSquares(server, consume(server, requests, false))
	client := open(connection)
	results := object{}
	kinds := map[string]string{"queue": exclusiveQueue(client), "direct": directReplyTo}
	for kind, replyTo := range kinds {
		replies := consume(client, replyTo, true)
		for _, number := range []int{3, 12} {
			request := text(strconv.Itoa(number))
			request.ReplyTo = replyTo
			request.CorrelationId = fmt.Sprintf("n%d", number)
			publish(client, "", requests, request)
		}
		for count := 0; count < 2; count++ {
			reply := next(replies)
			results[kind+" "+reply.CorrelationId] = string(reply.Body)
		}
	}
	return results
}

func confirms(connection *amqp.Connection, prefix string) object {
	channel := open(connection)
	check(channel.Confirm(false))
	confirmations := channel.NotifyPublish(make(chan amqp.Confirmation, 101))
	returns := channel.NotifyReturn(make(chan amqp.Return, 1))
	queue := exclusiveQueue(channel)
	for number := 0; number < 100; number++ {
		publish(channel, "", queue, text(strconv.Itoa(number)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	check(channel.PublishWithContext(ctx, "amq.direct", "nowhere", true, false, text("lost")))
	confirmed := 0
	for confirmed < 101 {
		select {
		case confirmation := <-confirmations:
			if !confirmation.Ack {
				log.Fatal("a message was refused")
			}
			confirmed++
		case <-time.After(patience):
			log.Fatal("a confirm is missing")
		}
	}
	lost := <-returns
	returned := [][]interface{}{{lost.ReplyCode, lost.ReplyText, string(lost.Body)}}
	stored, err := channel.QueuePurge(queue, false)
	check(err)
	return object{"confirmed": confirmed, "returned": returned, "stored": stored}
}

func properties(connection *amqp.Connection, prefix string) object {
	channel := open(connection)
	queue := exclusiveQueue(channel)
	publish(channel, "", queue, amqp.Publishing{
		ContentType:   "text/plain",
		CorrelationId: "c-1",
		MessageId:     "m-1",
		Priority:      5,
		Body:          bytes.Repeat([]byte("leveret"), 150_000)[:1024*1024+3],
		Headers: amqp.Table{
			"text":     "Grüße, 世界",
			"small":    int16(7),
			"negative": int32(-7),
			"wide":     int64(1) << 40,
			"yes":      true,
			"list":     []interface{}{"a", int32(1)},
			"table":    amqp.Table{"inner": "x"},
		},
	})
	got := next(consume(channel, queue, true))
	return object{
		"sha256":     fmt.Sprintf("%x", sha256.Sum256(got.Body)),
		"properties": []interface{}{got.ContentType, got.CorrelationId, got.MessageId, got.Priority},
		"headers":    got.Headers,
	}
}

func requeue(connection *amqp.Connection, prefix string) object {
	channel := open(connection)
	queue := exclusiveQueue(channel)
	for _, body := range []string{"a", "b"} {
		publish(channel, "", queue, text(body))
	}
	deliveries := consume(channel, queue, false)
	seen := [][]interface{}{}
	for len(seen) < 3 {
		delivery := next(deliveries)
		body := string(delivery.Body)
		seen = append(seen, []interface{}{body, delivery.Redelivered})
		switch {
		case delivery.Redelivered:
			check(delivery.Ack(false))
		case body == "a":
			check(delivery.Nack(false, true))
		default:
			check(delivery.Reject(false))
		}
	}
	sort.Slice(seen, func(i, j int) bool { return fmt.Sprint(seen[i]) < fmt.Sprint(seen[j]) })
	state, err := channel.QueueInspect(queue)
	check(err)
	return object{"seen": seen, "left": state.Messages}
}

func cancelled(connection *amqp.Connection, prefix string) object {
	queue := prefix + ".deleted"
	channel := open(connection)
	_, err := channel.QueueDeclare(queue, false, false, false, false, nil)
	check(err)
	notifications := channel.NotifyCancel(make(chan string, 1))
	_, err = channel.Consume(queue, "told", false, false, false, false, nil)
	check(err)
	_, err = open(connection).QueueDelete(queue, false, false, false)
	check(err)
	select {
	case tag := <-notifications:
		return object{"told": tag == "told"}
	case <-time.After(patience):
		return object{"told": false}
	}
}

func mistake(connection *amqp.Connection, act func(channel *amqp.Channel) error) []interface{} {
	failure, ok := act(open(connection)).(*amqp.Error)
	if !ok {
		log.Fatal("the broker did not object")
	}
	return []interface{}{failure.Code, failure.Reason}
}

func errors(connection *amqp.Connection, prefix string) object {
	found := object{
		"missing": mistake(connection, func(channel *amqp.Channel) error {
			_, err := channel.QueueDeclarePassive(prefix+".missing", false, false, false, false, nil)
			return err
		}),
		"reserved": mistake(connection, func(channel *amqp.Channel) error {
			_, err := channel.QueueDeclare("amq.mine", false, false, false, false, nil)
			return err
		}),
		"different": mistake(connection, func(channel *amqp.Channel) error {
			return channel.ExchangeDeclare("amq.topic", "direct", true, false, false, false, nil)
		}),
	}
	check(open(connection).ExchangeDeclarePassive("amq.topic", "topic", true, false, false, false, nil))
	return found
}

var scenarios = map[string]scenario{
	"work_queue":        workQueue,
	"publish_subscribe": publishSubscribe,
	"routing":           routing,
	"topics":            topics,
	"rpc":               rpc,
	"confirms":          confirms,
	"properties":        properties,
	"requeue":           requeue,
	"cancelled":         cancelled,
	"errors":            errors,
}

func main() {
	name, url, prefix := os.Args[1], os.Args[2], os.Args[3]
	connection, err := amqp.Dial(url)
	check(err)
	check(json.NewEncoder(os.Stdout).Encode(scenarios[name](connection, prefix)))
	check(connection.Close())
}
