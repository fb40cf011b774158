// amqplib, promise API: `node program.js SCENARIO URL PREFIX` prints what came of it as JSON.
'use strict';

const crypto = require('node:crypto');
const amqp = require('amqplib');

const DIRECT_REPLY_TO = 'amq.rabbitmq.reply-to';

// Consume `count` messages; `each` sees them as they come.
function collect(channel, queue, count, options = {}, each = () => {}) {
  const messages = [];
  return new Promise((resolve, reject) => {
    channel
      .consume(
        queue,
        (message) => {
          messages.push(message);
          each(message);
          if (messages.length === count) resolve(messages);
        },
        options,
      )
      .catch(reject);
  });
}

const bodies = (messages) => messages.map((message) => message.content.toString());

async function exclusiveQueue(channel) {
  return (await channel.assertQueue('', { exclusive: true })).queue;
}

const scenarios = {
  async work_queue(connection, prefix) {
    const tasks = `${prefix}.tasks`;
    const publisher = await connection.createChannel();
    await publisher.assertQueue(tasks, { durable: true });
    for (let number = 0; number < 6; number++) {
      publisher.sendToQueue(tasks, Buffer.from(`task ${number}`), { persistent: true });
    }
    const done = [];
    const workers = [await connection.createChannel(), await connection.createChannel()];
    await new Promise((resolve, reject) => {
      for (const worker of workers) {
        const work = (message) => {
          worker.ack(message);
          if (done.push(message.content.toString()) === 6) resolve();
        };
        worker.prefetch(1).then(() => worker.consume(tasks, work)).catch(reject);
      }
    });
    for (const worker of workers) await worker.close();
    const { messageCount } = await publisher.deleteQueue(tasks);
    return { done: done.sort(), left: messageCount };
  },

  async publish_subscribe(connection, prefix) {
    const channel = await connection.createChannel();
    const logs = `${prefix}.logs`;
    await channel.assertExchange(logs, 'fanout', { autoDelete: true });
    const queues = [await exclusiveQueue(channel), await exclusiveQueue(channel)];
    for (const queue of queues) await channel.bindQueue(queue, logs, '');
    for (const line of ['one', 'two', 'three']) channel.publish(logs, '', Buffer.from(line));
    const inboxes = queues.map((queue) => collect(channel, queue, 3, { noAck: true }));
    return {
      subscribers: (await Promise.all(inboxes)).map(bodies),
      server_named: queues.every((queue) => queue.startsWith('amq.gen-')),
    };
  },

  async routing(connection, prefix) {
    const channel = await connection.createChannel();
    const logs = `${prefix}.logs`;
    await channel.assertExchange(logs, 'direct', { autoDelete: true });
    const disk = await exclusiveQueue(channel);
    const screen = await exclusiveQueue(channel);
    await channel.bindQueue(disk, logs, 'error');
    for (const key of ['info', 'warning', 'error']) await channel.bindQueue(screen, logs, key);
    for (const key of ['info', 'debug', 'error', 'warning']) {
      channel.publish(logs, key, Buffer.from(key));
    }
    return {
      screen: bodies(await collect(channel, screen, 3, { noAck: true })),
      disk: bodies(await collect(channel, disk, 1, { noAck: true })),
    };
  },

  async topics(connection, prefix) {
    const channel = await connection.createChannel();
    const animals = `${prefix}.animals`;
    await channel.assertExchange(animals, 'topic', { autoDelete: true });
    const orange = await exclusiveQueue(channel);
    const lazy = await exclusiveQueue(channel);
    await channel.bindQueue(orange, animals, '*.orange.*');
    await channel.bindQueue(lazy, animals, '*.*.rabbit');
    await channel.bindQueue(lazy, animals, 'lazy.#');
    const keys = ['quick.orange.rabbit', 'lazy.orange.fox', 'quick.brown.fox', 'lazy', 'orange'];
    for (const key of keys) channel.publish(animals, key, Buffer.from(key));
    return {
      orange: bodies(await collect(channel, orange, 2, { noAck: true })),
      lazy: bodies(await collect(channel, lazy, 3, { noAck: true })),
    };
  },

  async rpc(connection, prefix) {
    const requests = `${prefix}.requests`;
    const server = await connection.createChannel();
    await server.assertQueue(requests, { autoDelete: true });
    await server.consume(requests, (message) => {
      const answer = Number(message.content.toString()) ** 2;
      server.sendToQueue(message.properties.replyTo, Buffer.from(String(answer)), {
        correlationId: message.properties.correlationId,
      });
      server.ack(message);
    });
    const client = await connection.createChannel();
    const results = {};
    for (const replyTo of [await exclusiveQueue(client), DIRECT_REPLY_TO]) {
      const replies = collect(client, replyTo, 2, { noAck: true });
      for (const number of [3, 12]) {
        client.sendToQueue(requests, Buffer.from(String(number)), {
          replyTo,
          correlationId: `n${number}`,
        });
      }
      for (const reply of await replies) {
        const kind = replyTo === DIRECT_REPLY_TO ? 'direct' : 'queue';
        results[`${kind} ${reply.properties.correlationId}`] = reply.content.toString();
      }
    }
    return results;
  },

  async confirms(connection) {
    const channel = await connection.createConfirmChannel();
    const returned = [];
    channel.on('return', (message) =>
      returned.push([
        message.fields.replyCode,
        message.fields.replyText,
        message.content.toString(),
      ]),
    );
    const queue = await exclusiveQueue(channel);
    let confirmed = 0;
    const count = (error) => {
      if (!error) confirmed += 1;
    };
    for (let number = 0; number < 100; number++) {
      channel.sendToQueue(queue, Buffer.from(String(number)), { persistent: true }, count);
    }
    channel.publish('amq.direct', 'nowhere', Buffer.from('lost'), { mandatory: true }, count);
    await channel.waitForConfirms();
    const { messageCount } = await channel.purgeQueue(queue);
    return { confirmed, returned, stored: messageCount };
  },

  async properties(connection) {
    const channel = await connection.createChannel();
    const queue = await exclusiveQueue(channel);
    const body = Buffer.alloc(1024 * 1024 + 3, 'leveret');
    channel.sendToQueue(queue, body, {
      contentType: 'text/plain',
      correlationId: 'c-1',
      messageId: 'm-1',
      priority: 5,
      headers: {
        text: 'Grüße, 世界',
        small: 7,
        negative: -7,
        wide: 2 ** 40,
        yes: true,
        list: ['a', 1],
        table: { inner: 'x' },
      },
    });
    const [message] = await collect(channel, queue, 1, { noAck: true });
    const { contentType, correlationId, messageId, priority, headers } = message.properties;
    return {
      sha256: crypto.createHash('sha256').update(message.content).digest('hex'),
      properties: [contentType, correlationId, messageId, priority],
      headers,
    };
  },

  async requeue(connection) {
    const channel = await connection.createChannel();
    const queue = await exclusiveQueue(channel);
    for (const body of ['a', 'b']) channel.sendToQueue(queue, Buffer.from(body));
    const messages = await collect(channel, queue, 3, {}, (message) => {
      if (message.fields.redelivered) channel.ack(message);
      else if (message.content.toString() === 'a') channel.nack(message, false, true);
      else channel.reject(message, false);
    });
    const seen = messages.map((m) => [m.content.toString(), m.fields.redelivered]).sort();
    return { seen, left: (await channel.checkQueue(queue)).messageCount };
  },

  async cancelled(connection, prefix) {
    const queue = `${prefix}.deleted`;
    const channel = await connection.createChannel();
    await channel.assertQueue(queue);
    const told = collect(channel, queue, 1); // amqplib hands a null to the consumer
    const other = await connection.createChannel();
    while ((await other.checkQueue(queue)).consumerCount === 0);
    await other.deleteQueue(queue);
    return { told: (await told)[0] === null };
  },

  async errors(connection, prefix) {
    const mistake = async (act) => {
      const channel = await connection.createChannel();
      const closed = new Promise((resolve) => channel.on('error', resolve));
      await act(channel).catch(() => {});
      const { code, message } = await closed;
      return [code, message.replace(/^.* with message "(.*)"$/, '$1')];
    };
    const found = {
      missing: await mistake((channel) => channel.checkQueue(`${prefix}.missing`)),
      reserved: await mistake((channel) => channel.assertQueue('amq.mine')),
      different: await mistake((channel) => channel.assertExchange('amq.topic', 'direct')),
    };
    const usable = await connection.createChannel();
    await usable.checkExchange('amq.topic');
    return found;
  },
};

async function main([name, url, prefix]) {
  const connection = await amqp.connect(url);
  console.log(JSON.stringify(await scenarios[name](connection, prefix)));
  await connection.close();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
