package org.hsmsigner.sim;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** Runs tests/vectors/apdu as its README tells. */
class VectorsTest {
    private static final Path FOLDER = Path.of(System.getProperty("vectors"), "apdu");

    @TestFactory
    List<DynamicTest> exchanges() throws IOException {
        try (Stream<Path> files = Stream.concat(Files.list(FOLDER), Files.list(FOLDER.resolve("once")))) {
            List<DynamicTest> tests = files.filter(file -> file.toString().endsWith(".json")).sorted()
                    .map(file -> DynamicTest.dynamicTest(file.getFileName().toString(), () -> new Run().file(file)))
                    .toList();
            assertTrue(tests.size() > 10, "vectors are missing");
            return tests;
        }
    }

    private static final class Run {
        private static final ObjectMapper JSON = new ObjectMapper();

        private final Card card = new Card();
        private final Map<String, byte[]> names = new HashMap<>();

        void file(Path file) throws IOException {
            for (JsonNode step : JSON.readTree(file.toFile()).required("steps")) {
                try {
                    step(step);
                } catch (AssertionError e) {
                    throw new AssertionError(file.getFileName() + ": " + step + ": " + e.getMessage(), e);
                }
            }
        }

        private void step(JsonNode step) throws IOException {
            if (step.has("include")) {
                file(FOLDER.resolve(step.get("include").textValue()));
            } else if (step.has("let")) {
                step.get("let").fields().forEachRemaining(entry -> names.put(entry.getKey(), value(entry.getValue())));
            } else if (step.has("equal")) {
                JsonNode pair = step.get("equal");
                assertEquals(Crypto.hex(value(pair.get(0))), Crypto.hex(value(pair.get(1))));
            } else if (step.has("differ")) {
                JsonNode pair = step.get("differ");
                assertNotEquals(Crypto.hex(value(pair.get(0))), Crypto.hex(value(pair.get(1))));
            } else if (step.has("verified")) {
                JsonNode of = step.get("verified");
                assertTrue(Crypto.verifies(value(of.get(0)), value(of.get(1)), value(of.get(2))), "signature");
            } else if (step.has("reset")) {
                card.reset();
            } else {
                send(step);
            }
        }

        private void send(JsonNode step) {
            byte[] answer = card.transmit(apdu(step.required("send")));
            int end = answer.length - 2;
            assertEquals(step.required("sw").textValue(), Crypto.hex(Arrays.copyOfRange(answer, end, end + 2)));
            int at = 0;
            for (JsonNode part : step.path("data")) {
                if (part.isObject()) {
                    int length = part.required("length").intValue();
                    assertTrue(at + length <= end, "answer too short");
                    names.put(part.required("capture").textValue(), Arrays.copyOfRange(answer, at, at + length));
                    at += length;
                } else {
                    byte[] expected = value(part);
                    assertEquals(Crypto.hex(expected), Crypto.hex(Arrays.copyOfRange(answer, at, Math.min(end, at + expected.length))));
                    at += expected.length;
                }
            }
            assertEquals(end, at, "length of the answer");
        }

        private byte[] apdu(JsonNode node) {
            if (!node.isObject()) {
                return value(node);
            }
            byte[] data = node.has("data") ? value(node.get("data")) : new byte[0];
            byte[] le = node.has("le") ? value(node.get("le")) : new byte[0];
            byte[] lc = data.length == 0 ? new byte[0] : Crypto.bytes(data.length);
            return Crypto.cat(value(node.required("header")), lc, data, le);
        }

        private byte[] value(JsonNode node) {
            if (node.isTextual()) {
                String text = node.textValue();
                if (!text.startsWith("$")) {
                    return Crypto.hex(text);
                }
                byte[] named = names.get(text.substring(1));
                assertTrue(named != null, () -> "unknown name " + text);
                return named;
            }
            switch (node.get(0).textValue()) {
                case "ascii":
                    return Crypto.ascii(node.get(1).textValue());
                case "repeat":
                    byte[][] copies = new byte[node.get(2).intValue()][];
                    Arrays.fill(copies, value(node.get(1)));
                    return Crypto.cat(copies);
                default:
                    return function(node);
            }
        }

        private byte[] function(JsonNode node) {
            byte[][] of = new byte[node.size() - 1][];
            for (int i = 0; i < of.length; i++) {
                of[i] = value(node.get(i + 1));
            }
            return switch (node.get(0).textValue()) {
                case "cat" -> Crypto.cat(of);
                case "sha256" -> Crypto.sha256(of);
                case "cbc" -> Crypto.cbc(of[0], of[1]);
                case "xor" -> Crypto.xor(of[0], of[1]);
                case "kw" -> Crypto.wrap(of[0], of[1]);
                case "unkw" -> Crypto.unwrap(of[0], of[1]);
                case "ecdh" -> Crypto.ecdh(of[0], of[1]);
                case "tlv" -> Crypto.tlv(of[0][0], of[1]);
                default -> throw new AssertionError("unknown function " + node.get(0));
            };
        }
    }
}
