import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.io.ByteArrayInputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/** Java's own client, which offers an upgrade to HTTP/2 by default with the first request of each connection. */
class Peer {
    static String base;

    static HttpRequest post(String path, HttpRequest.BodyPublisher body) {
        return HttpRequest.newBuilder(URI.create(base + path)).header("Content-Type", "application/json").POST(body).build();
    }

    static String rows(int count) {
        StringBuilder text = new StringBuilder("{\"inputs\": [");
        for (int i = 0; i < count; i++) {
            text.append(i == 0 ? "" : ",").append("[").append(i % 100).append(",2,3,4]");
        }
        return text.append("]}").toString();
    }

    static void same(Object found, Object right, String what) {
        if (!found.equals(right)) {
            throw new AssertionError(what + ": expected " + right + ", found " + found);
        }
    }

    static String outputs(HttpResponse<String> reply) {
        same(reply.statusCode() + " " + reply.version(), "200 HTTP_1_1", reply.body());
        return reply.body().replaceAll("(?s).*\"outputs\":\\s*(\\[.*?\\]\\]).*", "$1");
    }

    public static void main(String[] arguments) throws Exception {
        base = "http://127.0.0.1:" + arguments[0];
        HttpClient offering = HttpClient.newHttpClient();
        HttpClient plain = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        String[] right = new String[100];
        for (int first = 0; first < right.length; first++) {
            String body = "{\"inputs\": [[" + first + ",2,3,4]]}";
            right[first] = outputs(plain.send(post("/predict", BodyPublishers.ofString(body)), BodyHandlers.ofString()));
            // A new client offers with its first request; the old one keeps its connection.
            HttpClient fresh = first < 10 ? HttpClient.newHttpClient() : offering;
            same(outputs(fresh.send(post("/predict", BodyPublishers.ofString(body)), BodyHandlers.ofString())), right[first], body);
        }
        // More than one segment and more than the socket holds, by length and by chunks.
        for (int count : new int[] {1_000, 100_000}) {
            byte[] large = rows(count).getBytes();
            String whole = outputs(plain.send(post("/predict", BodyPublishers.ofByteArray(large)), BodyHandlers.ofString()));
            HttpRequest chunked = post("/predict", BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(large)));
            same(outputs(HttpClient.newHttpClient().send(post("/predict", BodyPublishers.ofByteArray(large)), BodyHandlers.ofString())), whole, "large");
            same(outputs(HttpClient.newHttpClient().send(chunked, BodyHandlers.ofString())), whole, "chunks");
            same(outputs(offering.send(chunked, BodyHandlers.ofString())), whole, "chunks, kept alive");
        }
        // All at once, but fewer than may wait: the client opens a connection for each, and offers on each.
        HttpClient many = HttpClient.newHttpClient();
        List<CompletableFuture<HttpResponse<String>>> replies = new ArrayList<>();
        for (int i = 0; i < 80; i++) {
            replies.add(many.sendAsync(post("/predict", BodyPublishers.ofString("{\"inputs\": [[" + i % 100 + ",2,3,4]]}")), BodyHandlers.ofString()));
        }
        for (int i = 0; i < replies.size(); i++) {
            same(outputs(replies.get(i).get()), right[i % 100], "at once " + i);
        }
        // Requests without a body, faults and what is asked for with 100-continue.
        HttpRequest.Builder asked = HttpRequest.newBuilder(URI.create(base + "/v2/health/ready"));
        same(HttpClient.newHttpClient().send(asked.build(), BodyHandlers.ofString()).statusCode(), 200, "ready");
        same(HttpClient.newHttpClient().send(post("/predict", BodyPublishers.ofString("{")), BodyHandlers.ofString()).statusCode(), 400, "half");
        same(HttpClient.newHttpClient().send(post("/predict", BodyPublishers.noBody()), BodyHandlers.ofString()).statusCode(), 400, "none");
        HttpRequest waiting = HttpRequest.newBuilder(URI.create(base + "/predict")).expectContinue(true)
            .POST(BodyPublishers.ofString(rows(1_000))).build();
        outputs(HttpClient.newHttpClient().send(waiting, BodyHandlers.ofString()));
        outputs(plain.send(waiting, BodyHandlers.ofString()));
    }
}
