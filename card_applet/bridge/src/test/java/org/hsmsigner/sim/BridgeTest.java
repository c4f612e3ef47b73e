package org.hsmsigner.sim;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The bridges: lines on standard input, frames of vpcd. */
@Timeout(20)
class BridgeTest {
    private static final String SELECT = "00A4040009F048534D5349474E0100";

    private final ExecutorService threads = Executors.newSingleThreadExecutor();
    private ServerSocket vpcd;

    @BeforeEach
    void listen() throws IOException {
        vpcd = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
    }

    @AfterEach
    void close() throws IOException {
        vpcd.close();
        threads.shutdownNow();
    }

    private static String[] lines(String input) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        Bridge.serve(new ByteArrayInputStream(input.getBytes(StandardCharsets.US_ASCII)), new PrintStream(out, true));
        return out.toString(StandardCharsets.US_ASCII).split("\n");
    }

    @Test
    void theAtrIsWellFormed() {
        byte[] atr = new Card().atr();
        int check = 0;
        for (int i = 1; i < atr.length; i++) {
            check ^= atr[i];
        }
        assertEquals(0, check);
        assertEquals(4 + (atr[1] & 0x0F) + 1, atr.length);
    }

    @Test
    void linesAreAnswered() throws IOException {
        String atr = Crypto.hex(new Card().atr());
        String[] answers = lines("POWER\n80CA000000\n" + SELECT + "\n80ca000000 \nRESET\n80CA000000\nNEW\n" + SELECT + "\nzz\n0\n\n");
        assertEquals(11, answers.length);
        assertEquals(atr, answers[0]);
        assertEquals("6D00", answers[1]);
        assertTrue(answers[2].startsWith("6F22") && answers[2].endsWith("9000"));
        assertTrue(answers[3].startsWith("800200018101018708") && answers[3].endsWith("9000"));
        assertEquals(atr, answers[4]);
        assertEquals("6D00", answers[5]);
        assertEquals(atr, answers[6]);
        assertFalse(answers[7].equals(answers[2]), "another card has another serial");
        assertTrue(answers[8].startsWith("ERROR"));
        assertTrue(answers[9].startsWith("ERROR"));
        assertEquals("6700", answers[10]);
    }

    private Future<?> attach() {
        return threads.submit(() -> {
            try (Socket socket = new Socket(vpcd.getInetAddress(), vpcd.getLocalPort())) {
                VpcdBridge.serve(socket);
            }
            return null;
        });
    }

    private static byte[] frame(String payload) {
        byte[] bytes = Crypto.hex(payload);
        return Crypto.cat(Crypto.bytes(bytes.length >> 8, bytes.length), bytes);
    }

    private static String reply(DataInputStream in) throws IOException {
        byte[] payload = new byte[in.readUnsignedShort()];
        in.readFully(payload);
        return Crypto.hex(payload);
    }

    @Test
    void framesAreAnsweredWhateverTheirPieces() throws Exception {
        Future<?> served = attach();
        try (Socket socket = vpcd.accept()) {
            socket.setTcpNoDelay(true);
            DataInputStream in = new DataInputStream(socket.getInputStream());
            OutputStream out = socket.getOutputStream();
            // Control bytes but 04 have no reply; several frames in one segment.
            out.write(Crypto.cat(frame("00"), frame("01"), frame("04"), frame(SELECT), frame("04"), frame("80CA000000")));
            String atr = Crypto.hex(new Card().atr());
            assertEquals(atr, reply(in));
            assertTrue(reply(in).endsWith("9000"));
            assertEquals(atr, reply(in));
            assertTrue(reply(in).endsWith("9000"), "asking for the ATR changes nothing");
            for (byte one : frame("80CA000000")) {
                out.write(one);
                out.flush();
                TimeUnit.MILLISECONDS.sleep(5);
            }
            assertTrue(reply(in).endsWith("9000"));
            for (String power : new String[] {"00", "01", "02"}) {
                out.write(Crypto.cat(frame(power), frame("80CA000000"), frame(SELECT)));
                assertEquals("6D00", reply(in));
                assertTrue(reply(in).endsWith("9000"));
            }
            out.write(frame("8062"));
            assertEquals("6700", reply(in));
            byte[] longest = new byte[7 + 32767];
            System.arraycopy(Crypto.hex("80CA0000007FFF"), 0, longest, 0, 7);
            out.write(frame(Crypto.hex(longest)));
            assertEquals("6700", reply(in));
        }
        served.get();
    }

    @Test
    void aCutFrameAndAnUnknownControlByteAreErrors() throws Exception {
        for (byte[] sent : new byte[][] {{0}, {0, 5, 1}, {0, 1, 9}}) {
            Future<?> served = attach();
            try (Socket socket = vpcd.accept()) {
                socket.getOutputStream().write(sent);
                socket.shutdownOutput();
                assertArrayEquals(new byte[0], socket.getInputStream().readAllBytes());
            }
            ExecutionException e = assertThrows(ExecutionException.class, served::get);
            assertTrue(sent.length == 3 && sent[1] == 1 ? e.getCause() instanceof IOException : e.getCause() instanceof EOFException);
        }
    }
}
