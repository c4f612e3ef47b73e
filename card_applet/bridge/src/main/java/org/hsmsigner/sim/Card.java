package org.hsmsigner.sim;

import com.licel.jcardsim.smartcardio.CardSimulator;
import java.util.Arrays;
import java.util.HexFormat;
import javacard.framework.AID;
import org.hsmsigner.applet.SignerApplet;

/**
 * The applet on a jCardSim card: power, and between bytes on the line and the applet what a platform does
 * (sections "Selection" and "Length bytes and answers" of docs/understand/apdu.md). Its persistent memory lasts as long as the
 * object. Not for several threads at once.
 */
public final class Card {
    /** Instance AID of the applet. */
    public static final byte[] APPLET_AID = HexFormat.of().parseHex("F048534D5349474E01");

    private static final byte[] WRONG_LENGTH = {0x67, 0x00};
    private static final int EXTENDED_DATA_MAX = 32767;
    private static final int HEADER = 4;

    private final Platform platform;
    private final CardSimulator simulator;

    /** A card fresh from the loader: blank, power on, nothing selected. */
    public Card() {
        this(new Platform(APPLET_AID));
    }

    /** The same over a platform that, say, tears. */
    Card(Platform platform) {
        System.setProperty("com.licel.jcardsim.randomdata.secure", "1");
        this.platform = platform;
        simulator = new CardSimulator(platform);
        simulator.changeProtocol("T=1");
        byte[] parameters = new byte[APPLET_AID.length + 3];
        parameters[0] = (byte) APPLET_AID.length;
        System.arraycopy(APPLET_AID, 0, parameters, 1, APPLET_AID.length);
        AID aid = new AID(APPLET_AID, (short) 0, (byte) APPLET_AID.length);
        simulator.installApplet(aid, SignerApplet.class, parameters, (short) 0, (byte) parameters.length);
        platform.seedKeyPair();
    }

    /**
     * Answer to reset: T=1; historical bytes of category 80 with card capabilities (selection by full name,
     * chaining, extended length) and issuer's data "JCS".
     */
    public byte[] atr() {
        byte[] atr = HexFormat.of().parseHex("3B898001807380" + "21C0" + "534A435300");
        for (int i = 1; i < atr.length - 1; i++) {
            atr[atr.length - 1] ^= atr[i];
        }
        return atr;
    }

    /** Power off and on, or a warm reset: transient memory dies, nothing is selected. */
    public void reset() {
        simulator.reset();
    }

    Platform platform() {
        return platform;
    }

    CardSimulator simulator() {
        return simulator;
    }

    /** Answers one APDU: data and status word, whatever the bytes are. */
    public byte[] transmit(byte[] apdu) {
        if (!isApdu(apdu)) {
            return WRONG_LENGTH.clone();
        }
        if (!platform.hasSelection() && !isSelect(apdu)) {
            return withoutSelection(apdu);
        }
        byte[] answer = simulator.transmitCommand(reshape(apdu));
        platform.mendPrivateKey();
        return platform.hasSelection() ? answer : withoutSelection(apdu);
    }

    /** ISO 7816-4, 5.2: the length bytes and the number of bytes agree; at most 32767 bytes of data. */
    private static boolean isApdu(byte[] apdu) {
        int body = apdu.length - HEADER;
        if (body < 0) {
            return false;
        }
        if (body <= 1) {
            return true;
        }
        int first = apdu[HEADER] & 0xFF;
        if (first != 0) {
            return body == 1 + first || body == 2 + first;
        }
        if (body < 3) {
            return false;
        }
        int number = extendedLength(apdu);
        return body == 3 || (number >= 1 && number <= EXTENDED_DATA_MAX && (body == 3 + number || body == 5 + number));
    }

    private static int extendedLength(byte[] apdu) {
        return (apdu[HEADER + 1] & 0xFF) << 8 | apdu[HEADER + 2] & 0xFF;
    }

    private static boolean isSelect(byte[] apdu) {
        return apdu[0] == 0 && apdu[1] == (byte) 0xA4 && apdu[2] == 4 && apdu[3] == 0;
    }

    /** What the platform answers where no applet is selected, and to a SELECT that selects none. */
    private static byte[] withoutSelection(byte[] apdu) {
        int ownClass = apdu[0] & 0xEF;
        int word = 0x6D00;
        if (ownClass != 0x00 && ownClass != 0x80) {
            word = 0x6E00;
        } else if (ownClass == 0x00 && apdu[1] == (byte) 0xA4) {
            word = apdu[0] != 0 ? 0x6884 : isSelect(apdu) ? 0x6A82 : 0x6A86;
        }
        return new byte[] {(byte) (word >> 8), (byte) word};
    }

    /**
     * The same command as jCardSim takes it: SELECT with extended length bytes as a short one, where it is not
     * looked for; no Le after 255 bytes of data, for which its buffer is a byte too small (no command with so
     * many has an answer).
     */
    private static byte[] reshape(byte[] apdu) {
        boolean extended = apdu.length >= HEADER + 3 && apdu[HEADER] == 0;
        if (!extended) {
            return apdu.length == HEADER + 2 + 255 ? Arrays.copyOf(apdu, apdu.length - 1) : apdu;
        }
        int nc = apdu.length == HEADER + 3 ? 0 : extendedLength(apdu);
        if (!isSelect(apdu) || nc == 0 || nc > 255) {
            return apdu;
        }
        boolean hasLe = apdu.length == HEADER + 5 + nc;
        byte[] recoded = new byte[HEADER + 1 + nc + (hasLe && nc < 255 ? 1 : 0)];
        System.arraycopy(apdu, 0, recoded, 0, HEADER);
        recoded[HEADER] = (byte) nc;
        System.arraycopy(apdu, HEADER + 3, recoded, HEADER + 1, nc);
        if (recoded.length == HEADER + 2 + nc && apdu[apdu.length - 2] == 0) {
            recoded[recoded.length - 1] = apdu[apdu.length - 1];
        }
        return recoded;
    }
}
