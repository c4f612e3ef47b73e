package org.hsmsigner.sim;

import static org.hsmsigner.sim.Crypto.ascii;
import static org.hsmsigner.sim.Crypto.bytes;
import static org.hsmsigner.sim.Crypto.cat;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.Arrays;
import org.hsmsigner.sim.Host.Profile;
import org.junit.jupiter.api.Test;

/** PIN and PUK: tries, both checks, both policies. */
class PinTest {
    private static final byte[] MESSAGE = ascii("m");

    private static int verify(Host host, String pin) {
        return host.sw("00200081", ascii(pin));
    }

    private static int change(Host host, String old, String fresh) {
        return host.sw("00240081", cat(bytes(old.length()), ascii(old), ascii(fresh)));
    }

    private static int unblock(Host host, String puk, String fresh) {
        return host.sw("002C0081", cat(bytes(puk.length()), ascii(puk), ascii(fresh)));
    }

    private static byte[] store(Host host) {
        return (byte[]) Platform.read(Platform.read(host.card.platform().applet(), "store"), "data");
    }

    @Test
    void triesRunOutAndThePukBringsThemBack() {
        Profile profile = Profile.DEFAULT.withTries(2, 2);
        Host host = Host.enrolled(profile);
        assertEquals(0x63C1, verify(host, "999999"));
        assertEquals(0x9000, verify(host, profile.pin()));
        assertEquals(2, host.status(0x85));
        assertEquals(0x63C1, change(host, "999999", "111111"));
        assertEquals(0x63C1, host.sw("00200081"));
        assertEquals(0x6983, verify(host, "999999"));
        assertEquals(4, host.status(0x81));
        assertEquals(0x6983, verify(host, profile.pin()));
        assertEquals(0x6983, change(host, profile.pin(), "111111"));
        assertEquals(0x6985, host.sw("002A9080"));
        assertEquals(0x63C1, unblock(host, "PUK-7f3Kq9Zt1XbW", "111111"));
        assertEquals(0x9000, unblock(host, profile.puk(), "111111"));
        assertEquals(2, host.status(0x85));
        assertEquals(2, host.status(0x86));
        assertEquals(0x9000, verify(host, "111111"));
    }

    @Test
    void bothBlockedLeavesFactoryReset() {
        Host host = Host.enrolled(Profile.DEFAULT.withTries(1, 1));
        assertEquals(0x6983, verify(host, "999999"));
        assertEquals(0x6982, host.sw("806EAA55"));
        assertEquals(0x6983, unblock(host, "0123456789abcdef", "111111"));
        assertEquals(0x6983, unblock(host, Profile.DEFAULT.puk(), "111111"));
        assertEquals(0x9000, host.sw("806EAA55"));

        Host without = Host.enrolled(Profile.DEFAULT.withTries(1, 1).withPuk(null));
        assertEquals(0x6A88, unblock(without, Profile.DEFAULT.puk(), "111111"));
        assertEquals(0x6982, without.sw("806EAA55"));
        assertEquals(0x6983, verify(without, "999999"));
        assertEquals(0x9000, without.sw("806EAA55"));
    }

    @Test
    void malformedPinsUseNoTry() {
        Host host = Host.enrolled(Profile.DEFAULT);
        for (String pin : new String[] {"12345", "1234567890123", "12345a", "12345/", "12345:", "12345\u0000"}) {
            assertEquals(0x6A80, verify(host, pin), pin);
            assertEquals(0x6A80, change(host, pin, "111111"), pin);
            assertEquals(0x6A80, change(host, Profile.DEFAULT.pin(), pin), pin);
            assertEquals(0x6A80, unblock(host, Profile.DEFAULT.puk(), pin), pin);
        }
        for (String puk : new String[] {"0123456789abcde", "0".repeat(33), "0123456789 abcdef", "0123456789abcde\u007F"}) {
            assertEquals(0x6A80, unblock(host, puk, "111111"), puk);
        }
        assertEquals(0x6A80, host.sw("00240081", cat(bytes(255), ascii("194738111111"))));
        assertEquals(0x6A80, host.sw("00240081", bytes(6)));
        assertEquals(0x6A80, host.sw("00200081", new byte[255]));
        assertEquals(0x6700, host.sw("00240081"));
        assertEquals(3, host.status(0x85));
        assertEquals(3, host.status(0x86));
    }

    @Test
    void aWrongPinClearsTheVerification() {
        Profile session = Profile.DEFAULT.with(Host.ROLLING, Host.CBC, Host.SESSION, Host.ON_CARD);
        Host host = Host.enrolled(session);
        host.verify(session.pin());
        assertEquals(0x63C2, verify(host, "999999"));
        assertEquals(0x63C2, host.sw("00200081"));
        host.verify(session.pin());
        assertEquals(0x63C2, unblock(host, "0123456789abcdef", "111111"));
        assertEquals(0x63C3, host.sw("00200081"));
        host.verify(session.pin());
        assertEquals(0x9000, change(host, session.pin(), "111111"));
        assertEquals(0x63C3, host.sw("00200081"));
    }

    @Test
    void policySessionLastsAndPolicyAlwaysDoesNot() {
        for (int policy : new int[] {Host.ALWAYS, Host.SESSION}) {
            Profile profile = Profile.DEFAULT.with(Host.ROLLING, Host.CBC, policy, Host.ON_CARD);
            Host host = Host.enrolled(profile);
            host.verify(profile.pin());
            host.hash(MESSAGE);
            // The hash came after the PIN: policy always has forgotten the PIN.
            int first = host.raw(Host.authorisation(Host.ECDSA_SHA256, Host.value(1))).sw();
            assertEquals(policy == Host.ALWAYS ? 0x6982 : 0x9000, first);
            host.hash(MESSAGE);
            int second = host.raw(Host.authorisation(Host.ECDSA_SHA256, Host.value(1))).sw();
            assertEquals(first, second);
        }
    }

    /** PIN check 02: a wrong PIN with the right first byte of POWF passes and gives a wrong KEK. */
    @Test
    void theServerFindsWhatTheCardLetsPass() {
        Profile profile = Profile.DEFAULT.with(Host.PIN, Host.CBC, Host.ALWAYS, Host.ON_SERVER);
        Host host = Host.enrolled(profile);
        String similar = similarPin(host, profile.pin());
        host.hash(MESSAGE);
        host.verify(similar);
        byte[] answer = host.data(Host.authorisation(Host.ECDSA_SHA256));
        byte[] opened = host.open(profile, Host.ECDSA_SHA256, 1, Crypto.sha256(MESSAGE), answer)[0];
        assertFalse(Arrays.equals(host.kek, opened));

        // CHANGE with it spoils PKREV, the PUK mends it.
        assertEquals(0x9000, change(host, similar, "111111"));
        assertEquals(0x9000, unblock(host, profile.puk(), "222222"));
        host.hash(MESSAGE);
        host.verify("222222");
        byte[] mended = host.data(Host.authorisation(Host.ECDSA_SHA256));
        assertArrayEquals(host.kek, host.open(profile, Host.ECDSA_SHA256, 1, Crypto.sha256(MESSAGE), mended)[0]);
    }

    private static String similarPin(Host host, String pin) {
        byte[] salt = Arrays.copyOfRange(store(host), 67 + 80, 67 + 96);
        byte first = powf(salt, pin);
        for (int number = 0; ; number++) {
            String candidate = String.format("%06d", number);
            if (!candidate.equals(pin) && powf(salt, candidate) == first) {
                return candidate;
            }
        }
    }

    private static byte powf(byte[] salt, String pin) {
        return Crypto.sha256(ascii("hsm-signer/1/powf"), bytes(1), salt, ascii(pin))[0];
    }

    @Test
    void onlyTheRightPinOfManyPasses() {
        Profile profile = Profile.DEFAULT.withTries(15, 15);
        Host host = Host.enrolled(profile);
        for (int i = 0; i < profile.pin().length(); i++) {
            char[] wrong = profile.pin().toCharArray();
            wrong[i] = wrong[i] == '0' ? '1' : '0';
            assertEquals(0x63CE, verify(host, new String(wrong)));
            assertEquals(0x9000, verify(host, profile.pin()));
        }
        for (int i = 0; i < profile.puk().length(); i++) {
            char[] wrong = profile.puk().toCharArray();
            wrong[i] = wrong[i] == '!' ? '"' : '!';
            assertEquals(0x63CE, unblock(host, new String(wrong), "111111"));
            assertEquals(0x9000, unblock(host, profile.puk(), "111111"));
        }
    }

    /** Every byte of a kept POWF is compared. */
    @Test
    void everyByteOfPowfCounts() {
        for (int check : new int[] {Host.ON_CARD, Host.ON_SERVER}) {
            Profile profile = Profile.DEFAULT.with(Host.ROLLING, Host.CBC, Host.ALWAYS, check).withTries(15, 15);
            Host host = Host.enrolled(profile);
            for (int i = 0; i < 32; i++) {
                store(host)[67 + 48 + i] ^= (byte) 0x80;
                store(host)[67 + 96 + 48 + i] ^= 1;
                assertEquals(check == Host.ON_SERVER && i > 0 ? 0x9000 : 0x63CE, verify(host, profile.pin()), "byte " + i);
                assertEquals(0x63CE, unblock(host, profile.puk(), "111111"), "byte " + i);
                store(host)[67 + 48 + i] ^= (byte) 0x80;
                store(host)[67 + 96 + 48 + i] ^= 1;
                assertEquals(0x9000, verify(host, profile.pin()));
                assertEquals(0x9000, unblock(host, profile.puk(), profile.pin()));
            }
        }
    }

    @Test
    void saltsAreFreshAtEveryChange() {
        Host host = Host.enrolled(Profile.DEFAULT);
        byte[] before = Arrays.copyOfRange(store(host), 67, 67 + 96);
        assertEquals(0x9000, change(host, Profile.DEFAULT.pin(), Profile.DEFAULT.pin()));
        byte[] after = Arrays.copyOfRange(store(host), 67, 67 + 96);
        for (int at : new int[] {0, 32, 48, 80}) {
            assertFalse(Arrays.equals(before, at, at + 16, after, at, at + 16), "at " + at);
        }
        assertThrows(AssertionError.class, () -> host.verify("000000"));
    }
}
