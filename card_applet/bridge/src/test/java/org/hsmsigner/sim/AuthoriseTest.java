package org.hsmsigner.sim;

import static org.hsmsigner.sim.Crypto.ascii;
import static org.hsmsigner.sim.Crypto.bytes;
import static org.hsmsigner.sim.Crypto.cat;
import static org.hsmsigner.sim.Crypto.hex;
import static org.hsmsigner.sim.Crypto.sha256;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import java.util.Arrays;
import java.util.stream.Stream;
import org.hsmsigner.sim.Host.Answer;
import org.hsmsigner.sim.Host.Profile;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** From a blank card to Q, with everything the card computes checked by the JDK's cryptography. */
class AuthoriseTest {
    private static final byte[] MESSAGE = ascii("Pay 100 to Alice");

    static Stream<Profile> profiles() {
        Stream.Builder<Profile> profiles = Stream.builder();
        profiles.add(Profile.OF_BASIC);
        for (int scheme : new int[] {Host.PIN, Host.ROLLING}) {
            for (int combine : new int[] {Host.XOR, Host.CBC}) {
                for (int policy : new int[] {Host.ALWAYS, Host.SESSION}) {
                    for (int check : new int[] {Host.ON_CARD, Host.ON_SERVER}) {
                        profiles.add(Profile.DEFAULT.with(scheme, combine, policy, check));
                    }
                }
            }
        }
        profiles.add(Profile.DEFAULT.withPuk(null));
        return profiles.build();
    }

    private static byte[][] values(Profile profile, int count) {
        byte[][] values = new byte[profile.scheme() == Host.ROLLING ? count : 0][];
        for (int i = 0; i < values.length; i++) {
            values[i] = Host.value(i);
        }
        return values;
    }

    @ParameterizedTest
    @MethodSource("profiles")
    void everyProfileAuthorises(Profile profile) {
        Host host = Host.enrolled(profile);
        for (int count = 1; count <= 6; count++) {
            host.authorise(profile, MESSAGE, values(profile, count));
        }
        host.authorise(profile, new byte[0], values(profile, 2));
    }

    @ParameterizedTest
    @MethodSource("profiles")
    void afterPinChangeAndUnblockingTheKeyIsTheSame(Profile profile) {
        Host host = Host.enrolled(profile);
        Profile now = profile;
        if (!profile.isBasic()) {
            now = new Profile(profile.scheme(), profile.combine(), profile.policy(), profile.check(), 3, 3, "000000000000", profile.puk());
            host.ok("00240081", cat(bytes(6), ascii("194738"), ascii("000000000000")));
            host.authorise(now, MESSAGE, values(profile, 2));
            if (profile.puk() != null) {
                host.ok("002C0081", cat(bytes(16), ascii(profile.puk()), ascii("7654321")));
                now = new Profile(profile.scheme(), profile.combine(), profile.policy(), profile.check(), 3, 3, "7654321", profile.puk());
            }
        }
        host.card.reset();
        host.select();
        host.authorise(now, MESSAGE, values(profile, 2));
    }

    @Test
    void everyAuthorisationHasItsOwnR() {
        Host host = Host.enrolled(Profile.OF_BASIC);
        host.hash(MESSAGE);
        byte[] first = host.data(Host.authorisation(Host.ECDSA_SHA256));
        host.hash(MESSAGE);
        byte[] second = host.data(Host.authorisation(Host.ECDSA_SHA256));
        assertFalse(Arrays.equals(first, 0, 16, second, 0, 16));
    }

    @Test
    void aListOfDigestsIsSignedUnderItsOwnHash() {
        Profile profile = Profile.DEFAULT.with(Host.ROLLING, Host.CBC, Host.SESSION, Host.ON_CARD);
        Host host = Host.enrolled(profile);
        byte[] list = cat(bytes(0, 3, 48), new byte[3 * 48]);
        host.ok("80660000", list);
        host.verify(profile.pin());
        byte[] answer = host.data(Host.authorisation(0x0202, Host.value(1)));
        byte[][] opened = host.open(profile, 0x0202, 2, sha256(ascii("hsm-signer/1/digests"), list), answer, Host.value(1));
        assertArrayEquals(host.expected(profile, Host.value(1)), opened[0]);
    }

    @Test
    void extendedLengthGivesTheSameAnswers() {
        Profile profile = Profile.DEFAULT;
        Host host = new Host(new Card());
        assertEquals(0x9000, host.raw(cat(hex("00A40400000009"), Card.APPLET_AID, hex("0000"))).sw());
        byte[] point = Arrays.copyOfRange(host.data(hex("80600000000000")), 2, 67);
        assertEquals(0x9000, host.raw(Host.extended("80620000", host.installData(profile, point))).sw());
        byte[] message = new byte[32767];
        Arrays.fill(message, (byte) 'm');
        assertEquals(0x9000, host.raw(Host.extended("102A9080", message)).sw());
        assertEquals(0x9000, host.raw(Host.extended("002A9080", message)).sw());
        assertEquals(0x9000, host.raw(Host.extended("00200081", ascii(profile.pin()))).sw());
        byte[] values = cat(Host.value(1), Host.value(2));
        byte[] answer = host.data(cat(Host.extended("80640000", cat(hex("020102"), values)), hex("0000")));
        byte[][] opened = host.open(profile, 0x0201, 1, sha256(message, message), answer, Host.value(1), Host.value(2));
        assertArrayEquals(host.expected(profile, Host.value(2)), opened[1]);
        assertEquals(0x6700, host.raw(Host.extended("80640000", new byte[256])).sw());
        assertEquals(0x6700, host.raw(Host.extended("80CA0000", new byte[300])).sw());
        assertEquals(0x6700, host.raw(Host.extended("00200081", new byte[32767])).sw());
    }

    @Test
    void aSmallLeGivesTheAnswerInParts() {
        Host host = Host.enrolled(Profile.DEFAULT);
        byte[][] values = values(Profile.DEFAULT, 6);
        host.hash(MESSAGE);
        host.verify(Profile.DEFAULT.pin());
        byte[] apdu = Host.authorisation(Host.ECDSA_SHA256, values);
        apdu[apdu.length - 1] = 1;
        Answer first = host.raw(apdu);
        assertEquals(0x61FF, first.sw());
        assertEquals(1, first.data().length);
        Answer second = host.raw(hex("00C0000064"));
        assertEquals(0x619B, second.sw());
        Answer last = host.raw(hex("00C0000000"));
        assertEquals(0x9000, last.sw());
        byte[] answer = cat(first.data(), second.data(), last.data());
        assertArrayEquals(host.expected(Profile.DEFAULT, values[5]),
                host.open(Profile.DEFAULT, Host.ECDSA_SHA256, 1, sha256(MESSAGE), answer, values)[5]);
        assertEquals(0x6D00, host.sw("00C0000000"));
    }

    @Test
    void whatWaitsDiesWithTheNextOtherApdu() {
        for (String other : new String[] {"80CA000000", "00C0000100", "00C00000 01 00", "FFFFFFFF", "10C0000000", "002A9080 01 00"}) {
            Host host = Host.enrolled(Profile.OF_BASIC);
            assertEquals(0x612C, host.sw("80CA000001"), other);
            host.raw(hex(other));
            assertEquals(0x6D00, host.sw("00C0000000"), other);
        }
        Host host = Host.fresh();
        assertEquals(0x610E, host.sw("80CA000007"));
        host.card.reset();
        host.select();
        assertEquals(0x6D00, host.sw("00C0000000"));
    }

    @Test
    void withoutLeTheAnswerComesWhole() {
        Host host = Host.fresh();
        assertEquals(21, host.data(hex("80CA0000")).length);
        assertEquals(36, host.raw(cat(hex("00A4040009"), Card.APPLET_AID)).data().length);
    }
}
