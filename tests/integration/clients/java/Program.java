import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.AMQP.Exchange;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultConsumer;
import com.rabbitmq.client.Envelope;
import com.rabbitmq.client.MessageProperties;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** The Java client: {@code java Program SCENARIO URL PREFIX} prints what came of it as JSON. */
public final class Program {
    private static final String DIRECT_REPLY_TO = "amq.rabbitmq.reply-to";
    private static final int PATIENCE = 20;

    private final Connection connection;
    private final String prefix;

    private Program(Connection connection, String prefix) {
        this.connection = connection;
        this.prefix = prefix;
    }

    public static void main(String[] arguments) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(arguments[1]);
        factory.setAutomaticRecoveryEnabled(false);
        try (Connection connection = factory.newConnection()) {
            System.out.println(json(new Program(connection, arguments[2]).run(arguments[0])));
        }
    }

    private Map<String, Object> run(String scenario) throws Exception {
        switch (scenario) {
            case "work_queue":
                return workQueue();
            case "publish_subscribe":
                return publishSubscribe();
            case "routing":
                return routing();
            case "topics":
                return topics();
            case "rpc":
                return rpc();
            case "confirms":
                return confirms();
            case "properties":
                return properties();
            case "requeue":
                return requeue();
            case "cancelled":
                return cancelled();
            case "errors":
                return errors();
            default:
                throw new IllegalArgumentException(scenario);
        }
    }

    private Map<String, Object> workQueue() throws Exception {
        String tasks = prefix + ".tasks";
        Channel channel = connection.createChannel();
        channel.queueDeclare(tasks, true, false, false, null);
        for (int number = 0; number < 6; number++) {
            channel.basicPublish(
                    "", tasks, MessageProperties.PERSISTENT_TEXT_PLAIN, bytes("task " + number));
        }
        BlockingQueue<Delivery> inbox = new LinkedBlockingQueue<>();
        List<Channel> workers = List.of(connection.createChannel(), connection.createChannel());
        for (Channel worker : workers) {
            worker.basicQos(1);
            worker.basicConsume(tasks, false, new DefaultConsumer(worker) {
                @Override
                public void handleDelivery(
                        String tag, Envelope envelope, BasicProperties properties, byte[] body)
                        throws IOException {
                    worker.basicAck(envelope.getDeliveryTag(), false);
                    inbox.add(new Delivery(envelope, properties, body));
                }
            });
        }
        List<String> done = bodies(inbox, 6);
        for (Channel worker : workers) {
            worker.close();
        }
        Collections.sort(done);
        return object("done", done, "left", channel.queueDelete(tasks).getMessageCount());
    }

    private Map<String, Object> publishSubscribe() throws Exception {
        String logs = prefix + ".logs";
        Channel channel = connection.createChannel();
        channel.exchangeDeclare(logs, "fanout", false, true, null);
        List<BlockingQueue<Delivery>> inboxes = new ArrayList<>();
        boolean serverNamed = true;
        for (int number = 0; number < 2; number++) {
            String queue = channel.queueDeclare().getQueue();
            serverNamed &= queue.startsWith("amq.gen-");
            channel.queueBind(queue, logs, "");
            inboxes.add(consume(channel, queue, true));
        }
        for (String line : List.of("one", "two", "three")) {
            channel.basicPublish(logs, "", null, bytes(line));
        }
        List<Object> subscribers = new ArrayList<>();
        for (BlockingQueue<Delivery> inbox : inboxes) {
            subscribers.add(bodies(inbox, 3));
        }
        return object("subscribers", subscribers, "server_named", serverNamed);
    }

    private Map<String, Object> routing() throws Exception {
        String logs = prefix + ".logs";
        Channel channel = connection.createChannel();
        channel.exchangeDeclare(logs, "direct", false, true, null);
        String disk = channel.queueDeclare().getQueue();
        String screen = channel.queueDeclare().getQueue();
        channel.queueBind(disk, logs, "error");
        for (String key : List.of("info", "warning", "error")) {
            channel.queueBind(screen, logs, key);
        }
        for (String key : List.of("info", "debug", "error", "warning")) {
            channel.basicPublish(logs, key, null, bytes(key));
        }
        return object(
                "screen", bodies(consume(channel, screen, true), 3),
                "disk", bodies(consume(channel, disk, true), 1));
    }

    private Map<String, Object> topics() throws Exception {
        String animals = prefix + ".animals";
        Channel channel = connection.createChannel();
        channel.exchangeDeclare(animals, "topic", false, true, null);
        String orange = channel.queueDeclare().getQueue();
        String lazy = channel.queueDeclare().getQueue();
        channel.queueBind(orange, animals, "*.orange.*");
        channel.queueBind(lazy, animals, "*.*.rabbit");
        channel.queueBind(lazy, animals, "lazy.#");
        for (String key : List.of(
                "quick.orange.rabbit", "lazy.orange.fox", "quick.brown.fox", "lazy", "orange")) {
            channel.basicPublish(animals, key, null, bytes(key));
        }
        return object(
                "orange", bodies(consume(channel, orange, true), 2),
                "lazy", bodies(consume(channel, lazy, true), 3));
    }

    private Map<String, Object> rpc() throws Exception {
        String requests = prefix + ".requests";
        Channel server = connection.createChannel();
        server.queueDeclare(requests, false, false, true, null);
        server.basicConsume(requests, false, new DefaultConsumer(server) {
            @Override
            public void handleDelivery(
                    String tag, Envelope envelope, BasicProperties properties, byte[] body)
                    throws IOException {
                int number = Integer.parseInt(new String(body, StandardCharsets.UTF_8));
                BasicProperties same = new BasicProperties.Builder()
                        .correlationId(properties.getCorrelationId())
                        .build();
                String answer = String.valueOf(number * number);
                server.basicPublish("", properties.getReplyTo(), same, bytes(answer));
                server.basicAck(envelope.getDeliveryTag(), false);
            }
        });
        Channel client = connection.createChannel();
        Map<String, Object> results = new LinkedHashMap<>();
        Map<String, Object> kinds =
                object("queue", client.queueDeclare().getQueue(), "direct", DIRECT_REPLY_TO);
        for (Map.Entry<String, Object> kind : kinds.entrySet()) {
            String replyTo = (String) kind.getValue();
            BlockingQueue<Delivery> replies = consume(client, replyTo, true);
            for (int number : new int[] {3, 12}) {
                BasicProperties properties = new BasicProperties.Builder()
                        .replyTo(replyTo)
                        .correlationId("n" + number)
                        .build();
                client.basicPublish("", requests, properties, bytes(String.valueOf(number)));
            }
            for (int count = 0; count < 2; count++) {
                Delivery reply = next(replies);
                String id = reply.properties.getCorrelationId();
                results.put(kind.getKey() + " " + id, reply.text());
            }
        }
        return results;
    }

    private Map<String, Object> confirms() throws Exception {
        Channel channel = connection.createChannel();
        channel.confirmSelect();
        BlockingQueue<Object> returned = new LinkedBlockingQueue<>();
        channel.addReturnListener((code, text, exchange, key, properties, body) ->
                returned.add(List.of(code, text, new String(body, StandardCharsets.UTF_8))));
        String queue = channel.queueDeclare().getQueue();
        for (int number = 0; number < 100; number++) {
            channel.basicPublish(
                    "", queue, MessageProperties.PERSISTENT_BASIC, bytes(String.valueOf(number)));
        }
        channel.basicPublish("amq.direct", "nowhere", true, null, bytes("lost"));
        channel.waitForConfirmsOrDie(PATIENCE * 1000L);
        long confirmed = channel.getNextPublishSeqNo() - 1;
        Object lost = returned.poll(PATIENCE, TimeUnit.SECONDS);
        int stored = channel.queuePurge(queue).getMessageCount();
        return object("confirmed", confirmed, "returned", List.of(lost), "stored", stored);
    }

    private Map<String, Object> properties() throws Exception {
        Channel channel = connection.createChannel();
        String queue = channel.queueDeclare().getQueue();
        byte[] pattern = bytes("leveret");
        byte[] body = new byte[1024 * 1024 + 3];
        for (int index = 0; index < body.length; index++) {
            body[index] = pattern[index % pattern.length];
        }
        Map<String, Object> headers = object(
                "text", "Grüße, 世界",
                "small", 7,
                "negative", -7,
                "wide", 1L << 40,
                "yes", true,
                "list", List.of("a", 1),
                "table", object("inner", "x"));
        BasicProperties sent = new BasicProperties.Builder()
                .contentType("text/plain")
                .correlationId("c-1")
                .messageId("m-1")
                .priority(5)
                .headers(headers)
                .build();
        channel.basicPublish("", queue, sent, body);
        Delivery got = next(consume(channel, queue, true));
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(got.body);
        return object(
                "sha256", String.format("%064x", new BigInteger(1, digest)),
                "properties", List.of(
                        got.properties.getContentType(),
                        got.properties.getCorrelationId(),
                        got.properties.getMessageId(),
                        got.properties.getPriority()),
                "headers", got.properties.getHeaders());
    }

    private Map<String, Object> requeue() throws Exception {
        Channel channel = connection.createChannel();
        String queue = channel.queueDeclare().getQueue();
        for (String body : List.of("a", "b")) {
            channel.basicPublish("", queue, null, bytes(body));
        }
        BlockingQueue<Delivery> inbox = consume(channel, queue, false);
        List<List<Object>> seen = new ArrayList<>();
        while (seen.size() < 3) {
            Delivery delivery = next(inbox);
            long tag = delivery.envelope.getDeliveryTag();
            boolean redelivered = delivery.envelope.isRedeliver();
            seen.add(List.of(delivery.text(), redelivered));
            if (redelivered) {
                channel.basicAck(tag, false);
            } else if (delivery.text().equals("a")) {
                channel.basicNack(tag, false, true);
            } else {
                channel.basicReject(tag, false);
            }
        }
        seen.sort(Comparator.comparing(Object::toString));
        return object("seen", seen, "left", channel.messageCount(queue));
    }

    private Map<String, Object> cancelled() throws Exception {
        String queue = prefix + ".deleted";
        Channel channel = connection.createChannel();
        channel.queueDeclare(queue, false, false, false, null);
        BlockingQueue<String> told = new LinkedBlockingQueue<>();
        channel.basicConsume(queue, false, "told", new DefaultConsumer(channel) {
            @Override
            public void handleCancel(String tag) {
                told.add(tag);
            }
        });
        connection.createChannel().queueDelete(queue);
        return object("told", "told".equals(told.poll(PATIENCE, TimeUnit.SECONDS)));
    }

    private Map<String, Object> errors() throws Exception {
        Map<String, Object> found = object(
                "missing", mistake(channel -> channel.queueDeclarePassive(prefix + ".missing")),
                "reserved", mistake(channel ->
                        channel.queueDeclare("amq.mine", false, false, false, null)),
                "different", mistake(channel ->
                        channel.exchangeDeclare("amq.topic", "direct", true)));
        Exchange.DeclareOk usable = connection.createChannel().exchangeDeclarePassive("amq.topic");
        if (usable == null) {
            throw new IllegalStateException("the connection is not usable");
        }
        return found;
    }

    private interface Act {
        void on(Channel channel) throws IOException;
    }

    private List<Object> mistake(Act act) throws IOException {
        Channel channel = connection.createChannel();
        try {
            act.on(channel);
        } catch (IOException failure) {
            ShutdownSignalException cause = (ShutdownSignalException) failure.getCause();
            com.rabbitmq.client.AMQP.Channel.Close close =
                    (com.rabbitmq.client.AMQP.Channel.Close) cause.getReason();
            return List.of(close.getReplyCode(), close.getReplyText());
        }
        throw new IllegalStateException("the broker did not object");
    }

    private static final class Delivery {
        final Envelope envelope;
        final BasicProperties properties;
        final byte[] body;

        Delivery(Envelope envelope, BasicProperties properties, byte[] body) {
            this.envelope = envelope;
            this.properties = properties;
            this.body = body;
        }

        String text() {
            return new String(body, StandardCharsets.UTF_8);
        }
    }

    private static BlockingQueue<Delivery> consume(Channel channel, String queue, boolean autoAck)
            throws IOException {
        BlockingQueue<Delivery> inbox = new LinkedBlockingQueue<>();
        channel.basicConsume(queue, autoAck, new DefaultConsumer(channel) {
            @Override
            public void handleDelivery(
                    String tag, Envelope envelope, BasicProperties properties, byte[] body) {
                inbox.add(new Delivery(envelope, properties, body));
            }
        });
        return inbox;
    }

    private static Delivery next(BlockingQueue<Delivery> inbox) throws InterruptedException {
        Delivery delivery = inbox.poll(PATIENCE, TimeUnit.SECONDS);
        if (delivery == null) {
            throw new IllegalStateException("no delivery came");
        }
        return delivery;
    }

    private static List<String> bodies(BlockingQueue<Delivery> inbox, int count)
            throws InterruptedException {
        List<String> result = new ArrayList<>();
        while (result.size() < count) {
            result.add(next(inbox).text());
        }
        return result;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static Map<String, Object> object(Object... keysAndValues) {
        Map<String, Object> result = new LinkedHashMap<>();
        for (int index = 0; index < keysAndValues.length; index += 2) {
            result.put((String) keysAndValues[index], keysAndValues[index + 1]);
        }
        return result;
    }

    private static String json(Object value) {
        if (value instanceof Map) {
            List<String> members = new ArrayList<>();
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) {
                members.add(json(entry.getKey()) + ":" + json(entry.getValue()));
            }
            return "{" + String.join(",", members) + "}";
        }
        if (value instanceof Collection) {
            List<String> items = new ArrayList<>();
            for (Object item : (Collection<?>) value) {
                items.add(json(item));
            }
            return "[" + String.join(",", items) + "]";
        }
        if (value == null || value instanceof Number || value instanceof Boolean) {
            return String.valueOf(value);
        }
        String text = value.toString().replace("\\", "\\\\").replace("\"", "\\\"");
        return "\"" + text + "\"";
    }
}
