# frozen_string_literal: true

# Bunny: `ruby program.rb SCENARIO URL PREFIX` prints what came of it as JSON.

require 'bunny'
require 'digest'
require 'json'
require 'timeout'

DIRECT_REPLY_TO = 'amq.rabbitmq.reply-to'

# The scenarios of the client tests, one method each.
class Scenarios
  def initialize(connection, prefix)
    @connection = connection
    @prefix = prefix
  end

  def work_queue
    channel = @connection.create_channel
    tasks = channel.queue("#{@prefix}.tasks", durable: true)
    6.times { |number| tasks.publish("task #{number}", persistent: true) }
    done = Queue.new
    workers = Array.new(2) { @connection.create_channel }
    workers.each do |worker|
      worker.prefetch(1)
      worker.queue(tasks.name, durable: true).subscribe(manual_ack: true) do |delivery, _, body|
        worker.ack(delivery.delivery_tag)
        done << body
      end
    end
    finished = take(done, 6)
    workers.each(&:close)
    { done: finished.sort, left: tasks.delete.message_count }
  end

  def publish_subscribe
    channel = @connection.create_channel
    logs = channel.fanout("#{@prefix}.logs", auto_delete: true)
    queues = Array.new(2) { channel.queue('', exclusive: true).bind(logs) }
    %w[one two three].each { |line| logs.publish(line) }
    {
      subscribers: queues.map { |queue| collect(queue, 3) },
      server_named: queues.all? { |queue| queue.name.start_with?('amq.gen-') }
    }
  end

  def routing
    channel = @connection.create_channel
    logs = channel.direct("#{@prefix}.logs", auto_delete: true)
    disk = channel.queue('', exclusive: true).bind(logs, routing_key: 'error')
    screen = channel.queue('', exclusive: true)
    %w[info warning error].each { |key| screen.bind(logs, routing_key: key) }
    %w[info debug error warning].each { |key| logs.publish(key, routing_key: key) }
    { screen: collect(screen, 3), disk: collect(disk, 1) }
  end

  def topics
    channel = @connection.create_channel
    animals = channel.topic("#{@prefix}.animals", auto_delete: true)
    orange = channel.queue('', exclusive: true).bind(animals, routing_key: '*.orange.*')
    lazy = channel.queue('', exclusive: true).bind(animals, routing_key: '*.*.rabbit')
    lazy.bind(animals, routing_key: 'lazy.#')
    %w[quick.orange.rabbit lazy.orange.fox quick.brown.fox lazy orange].each do |key|
      animals.publish(key, routing_key: key)
    end
    { orange: collect(orange, 2), lazy: collect(lazy, 3) }
  end

  def rpc
    requests = serve_squares
    client = @connection.create_channel
    results = {}
    { 'queue' => client.queue('', exclusive: true).name, 'direct' => DIRECT_REPLY_TO }
      .each do |kind, reply_to|
        replies = Queue.new
        client.basic_consume(reply_to, '', true) do |_, properties, body|
          replies << [properties.correlation_id, body]
        end
        [3, 12].each do |number|
          client.default_exchange.publish(
            number.to_s,
            routing_key: requests, reply_to: reply_to, correlation_id: "n#{number}"
          )
        end
        take(replies, 2).each { |id, body| results["#{kind} #{id}"] = body }
      end
    results
  end

  def confirms
    channel = @connection.create_channel
    channel.confirm_select
    returned = Queue.new
    direct = channel.direct('amq.direct', durable: true)
    direct.on_return do |info, _, body|
      returned << [info.reply_code, info.reply_text, body]
    end
    queue = channel.queue('', exclusive: true)
    100.times { |number| queue.publish(number.to_s, persistent: true) }
    direct.publish('lost', routing_key: 'nowhere', mandatory: true)
    all = channel.wait_for_confirms
    confirmed = all && channel.unconfirmed_set.empty? ? channel.next_publish_seq_no - 1 : 0
    stored = queue.message_count
    { confirmed: confirmed, returned: take(returned, 1), stored: stored }
  end

  def properties
    channel = @connection.create_channel
    queue = channel.queue('', exclusive: true)
    body = ('leveret' * 150_000)[0, (1024 * 1024) + 3]
    queue.publish(body, content_type: 'text/plain', correlation_id: 'c-1', message_id: 'm-1',
                        priority: 5, persistent: false, headers: {
                          'text' => 'Grüße, 世界', 'small' => 7, 'negative' => -7,
                          'wide' => 2**40, 'yes' => true, 'list' => ['a', 1],
                          'table' => { 'inner' => 'x' }
                        })
    _, got, received = pop(queue)
    {
      sha256: Digest::SHA256.hexdigest(received),
      properties: [got.content_type, got.correlation_id, got.message_id, got.priority],
      headers: got.headers
    }
  end

  def requeue
    channel = @connection.create_channel
    queue = channel.queue('', exclusive: true)
    %w[a b].each { |body| queue.publish(body) }
    seen = Queue.new
    queue.subscribe(manual_ack: true) do |delivery, _, body|
      if delivery.redelivered? then channel.ack(delivery.delivery_tag)
      elsif body == 'a' then channel.nack(delivery.delivery_tag, false, true)
      else channel.reject(delivery.delivery_tag, false)
      end
      seen << [body, delivery.redelivered?]
    end
    { seen: take(seen, 3).sort_by(&:to_s), left: queue.message_count }
  end

  def cancelled
    channel = @connection.create_channel
    queue = channel.queue("#{@prefix}.deleted")
    told = Queue.new
    queue.subscribe(on_cancellation: ->(_) { told << true }) { |*| nil }
    @connection.create_channel.queue_delete(queue.name)
    { told: take(told, 1).first }
  end

  def errors
    found = {
      missing: mistake { |channel| channel.queue("#{@prefix}.missing", passive: true) },
      reserved: mistake { |channel| channel.queue_declare('amq.mine') },
      different: mistake { |channel| channel.exchange_declare('amq.topic', 'direct', durable: true) }
    }
    @connection.create_channel.topic('amq.topic', durable: true)
    found
  end

  private

  def serve_squares
    server = @connection.create_channel
    requests = server.queue("#{@prefix}.requests", auto_delete: true)
    requests.subscribe(manual_ack: true) do |delivery, properties, body|
      server.default_exchange.publish(
        (body.to_i**2).to_s,
        routing_key: properties.reply_to, correlation_id: properties.correlation_id
      )
      server.ack(delivery.delivery_tag)
    end
    requests.name
  end

  def mistake
    yield @connection.create_channel
  rescue Bunny::ChannelLevelException => e
    [e.channel_close.reply_code, e.channel_close.reply_text]
  end

  def collect(queue, count)
    inbox = Queue.new
    queue.subscribe { |_, _, body| inbox << body }
    take(inbox, count)
  end

  def take(inbox, count)
    Array.new(count) { inbox.pop }
  end

  def pop(queue)
    loop do
      got = queue.pop
      return got if got.last
    end
  end
end

name, url, prefix = ARGV
connection = Bunny.new(url, log_level: :fatal, automatically_recover: false)
connection.start
puts JSON.generate(Timeout.timeout(20) { Scenarios.new(connection, prefix).public_send(name) })
connection.close
