package org.hsmsigner.sim;

import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.StandardSocketOptions;
import java.time.Duration;
import jdk.net.ExtendedSocketOptions;

/**
 * Puts the card into pcscd's virtual reader: the client of vsmartcard's vpcd.
 *
 * <p>Frames both ways are u16 length and payload; vpcd speaks first. vpcd sends length and payload apart without
 * TCP_NODELAY, so the second waits until the first is acknowledged: TCP_QUICKACK is set again before every read,
 * where the system has it.
 */
public final class VpcdBridge {
    private static final int POWER_OFF = 0;
    private static final int POWER_ON = 1;
    private static final int RESET = 2;
    private static final int GET_ATR = 4;
    private static final Duration CONNECT_FOR = Duration.ofSeconds(10);
    private static final int CONNECT_PAUSE_MS = 200;

    private final Socket socket;
    private final boolean quick;
    private final DataInputStream in;
    private final DataOutputStream out;
    private final Card card = new Card();

    private VpcdBridge(Socket socket) throws IOException {
        this.socket = socket;
        socket.setOption(StandardSocketOptions.TCP_NODELAY, true);
        quick = socket.supportedOptions().contains(ExtendedSocketOptions.TCP_QUICKACK);
        in = new DataInputStream(socket.getInputStream());
        out = new DataOutputStream(socket.getOutputStream());
    }

    /** Serves until vpcd closes the connection; the end of this process is the card's removal. */
    public static void main(String[] arguments) throws InterruptedException {
        if (arguments.length != 2 || !arguments[1].matches("[0-9]{1,5}") || Integer.parseInt(arguments[1]) > 65535) {
            System.err.println("usage: java -cp card-bridge.jar org.hsmsigner.sim.VpcdBridge HOST PORT");
            System.exit(2);
        }
        try (Socket socket = connect(arguments[0], Integer.parseInt(arguments[1]))) {
            System.err.println("card inserted at " + arguments[0] + ":" + arguments[1]);
            new VpcdBridge(socket).serve();
            System.err.println("vpcd has closed the connection");
        } catch (IOException e) {
            System.err.println("vpcd at " + arguments[0] + ":" + arguments[1] + ": " + e.getMessage());
            System.exit(1);
        }
    }

    /** vpcd may not listen yet while pcscd starts, so the connection is tried for a while. */
    private static Socket connect(String host, int port) throws IOException, InterruptedException {
        long deadline = System.nanoTime() + CONNECT_FOR.toNanos();
        while (true) {
            Socket socket = new Socket();
            try {
                socket.connect(new InetSocketAddress(host, port), (int) CONNECT_FOR.toMillis());
                return socket;
            } catch (IOException e) {
                socket.close();
                if (System.nanoTime() >= deadline) {
                    throw e;
                }
                Thread.sleep(CONNECT_PAUSE_MS);
            }
        }
    }

    /** The same over a connected socket; returns when the other side closes it between two frames. */
    static void serve(Socket socket) throws IOException {
        new VpcdBridge(socket).serve();
    }

    private void serve() throws IOException {
        for (byte[] frame = read(); frame != null; frame = read()) {
            if (frame.length == 1) {
                control(frame[0]);
            } else if (frame.length > 1) {
                write(card.transmit(frame));
            }
        }
    }

    private void control(int code) throws IOException {
        switch (code) {
            case POWER_OFF, POWER_ON, RESET -> card.reset();
            case GET_ATR -> write(card.atr());
            default -> throw new IOException("unknown control byte " + code);
        }
    }

    /** The next payload; null at the end of the connection between two frames. */
    private byte[] read() throws IOException {
        acknowledgeAtOnce();
        int high = in.read();
        if (high < 0) {
            return null;
        }
        int low = in.read();
        if (low < 0) {
            throw new EOFException("the connection ended within a frame");
        }
        byte[] payload = new byte[high << 8 | low];
        acknowledgeAtOnce();
        in.readFully(payload);
        return payload;
    }

    /** The option lasts until the kernel thinks otherwise. */
    private void acknowledgeAtOnce() throws IOException {
        if (quick) {
            socket.setOption(ExtendedSocketOptions.TCP_QUICKACK, true);
        }
    }

    private void write(byte[] payload) throws IOException {
        byte[] frame = new byte[2 + payload.length];
        frame[0] = (byte) (payload.length >> 8);
        frame[1] = (byte) payload.length;
        System.arraycopy(payload, 0, frame, 2, payload.length);
        out.write(frame);
        out.flush();
    }
}
