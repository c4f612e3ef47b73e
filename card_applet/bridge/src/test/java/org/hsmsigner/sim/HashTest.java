package org.hsmsigner.sim;

import static org.hsmsigner.sim.Crypto.ascii;
import static org.hsmsigner.sim.Crypto.bytes;
import static org.hsmsigner.sim.Crypto.cat;
import static org.hsmsigner.sim.Crypto.hex;
import static org.hsmsigner.sim.Crypto.sha256;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.mockito.ArgumentMatchers.anyShort;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import java.util.Arrays;
import java.util.Random;
import javacard.framework.APDU;
import javacard.framework.ISOException;
import org.hsmsigner.sim.Host.Profile;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Chaining, the count of a digest list, and data that come in pieces. */
class HashTest {
    private static final byte[] LABEL = ascii("hsm-signer/1/digests");

    private static byte[] loaded(Host host) {
        byte[] ram = (byte[]) Platform.read(Platform.read(host.card.platform().applet(), "session"), "ram");
        return ram[3] == 0 ? null : Arrays.copyOfRange(ram, 6, 38);
    }

    @Test
    void anyPartitionOfAMessageGivesItsHash() {
        Host host = Host.enrolled(Profile.OF_BASIC);
        Random random = new Random(1);
        for (int run = 0; run < 50; run++) {
            byte[] message = new byte[random.nextInt(700)];
            random.nextBytes(message);
            int at = 0;
            while (at < message.length && random.nextInt(8) != 0) {
                int length = Math.min(message.length - at, random.nextInt(256));
                host.ok("102A9080", Arrays.copyOfRange(message, at, at + length));
                at += length;
            }
            while (message.length - at > 255) {
                host.ok("102A9080", Arrays.copyOfRange(message, at, at + 255));
                at += 255;
            }
            host.ok("002A9080", Arrays.copyOfRange(message, at, message.length));
            assertArrayEquals(sha256(message), loaded(host));
        }
    }

    /** Up to the longest list, over 65535 bytes and over 32767 digests, in blocks that end anywhere. */
    @ParameterizedTest
    @ValueSource(strings = {"1 32", "2 64", "7 48", "1023 32", "1024 32", "2048 64", "32768 32", "32769 32", "65535 32"})
    void listsOfEveryLengthAreCountedExactly(String shape) {
        int count = Integer.parseInt(shape.split(" ")[0]);
        int length = Integer.parseInt(shape.split(" ")[1]);
        byte[] list = cat(bytes(count >> 8, count, length), new byte[count * length]);
        Random random = new Random(count);
        Host host = Host.enrolled(Profile.OF_BASIC);
        for (int excess : count > 30000 ? new int[] {0, 1} : new int[] {0, 1, -1, 32}) {
            byte[] sent = Arrays.copyOf(list, list.length + excess);
            host.hash(ascii("another"));
            int at = 0;
            int sw = 0x9000;
            while (at < sent.length && sw == 0x9000) {
                int block = Math.min(sent.length - at, 3 + random.nextInt(32765));
                byte[] data = Arrays.copyOfRange(sent, at, at + block);
                at += block;
                sw = host.raw(Host.extended(at < sent.length ? "90660000" : "80660000", data)).sw();
            }
            assertEquals(excess == 0 ? 0x9000 : list.length + excess < 3 ? 0x6700 : 0x6A80, sw, "excess " + excess);
            if (excess == 0) {
                assertArrayEquals(sha256(LABEL, list), loaded(host));
            } else if (sent.length <= 32767 && at == sent.length) {
                // Refused in its last block, which may have been its first: no hash is made of a wrong list.
                assertEquals(false, Arrays.equals(sha256(LABEL, sent), loaded(host)));
            }
        }
    }

    @Test
    void aRefusedFirstBlockLeavesHashAndVerification() {
        Host host = Host.enrolled(Profile.DEFAULT);
        host.hash(ascii("m"));
        host.verify(Profile.DEFAULT.pin());
        for (String block : new String[] {"80660000", "80660000 02 0001", "80660000 03 000020", "90660000 03 000121",
            "80660000 03 000120", "80660000 04 00012000", "90660000 24 000120" + "00".repeat(33)}) {
            assertEquals(block.length() < 18 ? 0x6700 : 0x6A80, host.sw(block), block);
        }
        host.data(Host.authorisation(Host.ECDSA_SHA256, Host.value(1)));
    }

    @Test
    void anErrorInALaterBlockDropsThePartialHash() {
        Host host = Host.enrolled(Profile.DEFAULT);
        host.ok("90660000", hex("000120"));
        assertEquals(0x6A80, host.sw("90660000", new byte[33]));
        // So these begin a new list.
        assertEquals(0x6700, host.sw("80660000 01 00"));
        assertEquals(0x6A80, host.sw("80660000", new byte[32]));
        assertEquals(0x6985, host.raw(Host.authorisation(Host.ECDSA_SHA256, Host.value(1))).sw());
    }

    @ParameterizedTest
    @ValueSource(strings = {"80CA000000", "FFFFFFFF", "00C0000000", "002A9081 01 00", "002A9180 01 00", "902A9080 01 00",
        "80660000 23 000120", "00200081", "10200081", "00A40400 01 00", "80640000", "00FF0000", "046A0000"})
    void everyOtherApduBreaksAChain(String other) {
        Host host = Host.enrolled(Profile.DEFAULT);
        host.ok("102A9080", ascii("first half"));
        String apdu = other.startsWith("8066") ? other + "00".repeat(32) : other;
        host.raw(hex(apdu));
        host.ok("002A9080", ascii("second half"));
        assertArrayEquals(sha256(ascii("second half")), loaded(host));
    }

    /**
     * A platform may hand over data in pieces as small as it likes; jCardSim never does, so its APDU is replaced
     * here. Every command is given its data at every piece length and has to answer as with the whole.
     */
    @ParameterizedTest
    @ValueSource(ints = {1, 2, 3, 7, 31, 128, 254})
    void dataThatComeInPiecesAreTheSame(int piece) {
        Profile profile = Profile.DEFAULT.with(Host.ROLLING, Host.CBC, Host.SESSION, Host.ON_CARD);
        Host host = Host.fresh();
        assertEquals(0x9000, inPieces(host, piece, "80620000", host.installData(profile, host.begin())));
        byte[] message = new byte[1000];
        Arrays.fill(message, (byte) 7);
        assertEquals(0x9000, inPieces(host, piece, "102A9080", message));
        assertEquals(0x9000, inPieces(host, piece, "002A9080", message));
        assertArrayEquals(sha256(message, message), loaded(host));
        byte[] list = cat(hex("001040"), new byte[16 * 64]);
        Arrays.fill(list, 3, list.length, (byte) 9);
        assertEquals(0x9000, inPieces(host, piece, "90660000", Arrays.copyOf(list, 500)));
        assertEquals(0x9000, inPieces(host, piece, "80660000", Arrays.copyOfRange(list, 500, list.length)));
        assertArrayEquals(sha256(LABEL, list), loaded(host));
        assertEquals(0x6A80, inPieces(host, piece, "80660000", Arrays.copyOf(list, 500)));
        assertEquals(0x9000, inPieces(host, piece, "00200081", ascii(profile.pin())));
        assertEquals(0x6700, inPieces(host, piece, "80640000", new byte[300]));
        assertEquals(0x9000, inPieces(host, piece, "00240081", cat(bytes(6), ascii(profile.pin()), ascii("111111"))));
        assertEquals(0x63C2, inPieces(host, piece, "00200081", ascii(profile.pin())));
    }

    private static int inPieces(Host host, int piece, String header, byte[] data) {
        int offset = 7;
        byte[] buffer = new byte[offset + Math.max(piece, 65)];
        System.arraycopy(hex(header), 0, buffer, 0, 4);
        int[] at = {0};
        APDU apdu = mock(APDU.class);
        when(apdu.getBuffer()).thenReturn(buffer);
        when(apdu.getOffsetCdata()).thenReturn((short) offset);
        when(apdu.getIncomingLength()).thenReturn((short) data.length);
        when(apdu.setIncomingAndReceive()).thenAnswer(call -> next(buffer, offset, piece, data, at));
        when(apdu.receiveBytes(anyShort())).thenAnswer(call -> next(buffer, call.<Short>getArgument(0), piece, data, at));
        // jCardSim's current runtime is that of the last APDU of this thread: this card's.
        try {
            host.card.platform().applet().process(apdu);
            return 0x9000;
        } catch (ISOException e) {
            return e.getReason() & 0xFFFF;
        }
    }

    private static short next(byte[] buffer, int offset, int piece, byte[] data, int[] at) {
        int length = Math.min(Math.min(piece, buffer.length - offset), data.length - at[0]);
        System.arraycopy(data, at[0], buffer, offset, length);
        at[0] += length;
        return (short) length;
    }
}
