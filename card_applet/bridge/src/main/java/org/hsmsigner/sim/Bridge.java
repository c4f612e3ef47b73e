package org.hsmsigner.sim;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.Locale;

/**
 * A card on standard input and output, line by line, for tests that drive the applet without PC/SC.
 *
 * <pre>
 * POWER, RESET    ATR       power off and on: transient memory dies
 * NEW             ATR       another card, fresh from the loader
 * hexadecimal     answer    one APDU, data and status word
 * </pre>
 *
 * Anything else is answered by a line that begins with "ERROR". Ends at the end of input.
 */
public final class Bridge {
    private static final HexFormat HEX = HexFormat.of().withUpperCase();

    private Card card = new Card();

    private Bridge() {
    }

    /** Runs until standard input ends. */
    public static void main(String[] arguments) throws IOException {
        if (arguments.length != 0) {
            System.err.println("usage: java -cp card-bridge.jar org.hsmsigner.sim.Bridge");
            System.exit(2);
        }
        PrintStream answers = System.out;
        // jCardSim says on standard output which algorithms it was asked for.
        System.setOut(System.err);
        serve(System.in, answers);
    }

    static void serve(InputStream in, PrintStream out) throws IOException {
        Bridge bridge = new Bridge();
        BufferedReader lines = new BufferedReader(new InputStreamReader(in, StandardCharsets.US_ASCII));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            out.print(bridge.answer(line.strip().toUpperCase(Locale.ROOT)) + "\n");
            out.flush();
        }
    }

    private String answer(String line) {
        switch (line) {
            case "POWER", "RESET" -> {
                card.reset();
                return HEX.formatHex(card.atr());
            }
            case "NEW" -> {
                card = new Card();
                return HEX.formatHex(card.atr());
            }
            default -> {
                byte[] apdu;
                try {
                    apdu = HEX.parseHex(line);
                } catch (IllegalArgumentException e) {
                    return "ERROR neither a command nor hexadecimal";
                }
                return HEX.formatHex(card.transmit(apdu));
            }
        }
    }
}
