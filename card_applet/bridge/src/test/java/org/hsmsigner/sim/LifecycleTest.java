package org.hsmsigner.sim;

import static org.hsmsigner.sim.Crypto.ascii;
import static org.hsmsigner.sim.Crypto.bytes;
import static org.hsmsigner.sim.Crypto.cat;
import static org.hsmsigner.sim.Crypto.hex;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.never;
import static org.mockito.Mockito.verify;
import static org.mockito.Mockito.when;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import javacard.framework.APDU;
import javacard.framework.ISOException;
import javacard.security.ECPrivateKey;
import org.hsmsigner.sim.Host.Profile;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Selection, personalisation, what dies when, FACTORY RESET. */
class LifecycleTest {
    private static final String WHOLE = "00A40400 09 F048534D5349474E01 00";

    private static ECPrivateKey privateKey(Host host) {
        return (ECPrivateKey) Platform.read(Platform.read(host.card.platform().applet(), "keys"), "privateKey");
    }

    private static byte[] memory(Host host, String of, String array) {
        return (byte[]) Platform.read(Platform.read(host.card.platform().applet(), of), array);
    }

    @Test
    void beforeSelectionThePlatformAnswers() {
        Host host = new Host(new Card());
        assertEquals(0x6D00, host.sw("80CA000000"));
        assertEquals(0x6E00, host.sw("04CA000000"));
        assertEquals(0x6A82, host.sw("00A40400 08 F048534D5349474E 00"));
        assertEquals(0x6A86, host.sw("00A4040C 09 F048534D5349474E01 00"));
        assertEquals(0x6D00, host.sw("80CA000000"));
        assertEquals(0x9000, host.sw(WHOLE));
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "00A40400 08 F048534D5349474E 00", "00A4040C 09 F048534D5349474E01 00", "00A40400", "00A40400 01 00",
        "00A40400 0A F048534D5349474E0100 00", "01A40400 09 F048534D5349474E01 00", "10A40400 09 F048534D5349474E01",
        "80A40400 09 F048534D5349474E01 00",
    })
    void aRefusedSelectLeavesTheSelection(String select) {
        Host host = Host.enrolled(Profile.DEFAULT);
        host.hash(ascii("m"));
        host.verify(Profile.DEFAULT.pin());
        assertFalse(host.sw(select) == 0x9000);
        assertEquals(0x9000, host.sw("00200081"));
        assertEquals(0x9000, host.raw(Host.authorisation(Host.ECDSA_SHA256, Host.value(1))).sw());
    }

    @Test
    void malformedApdusNeverReachTheApplet() {
        Host host = Host.enrolled(Profile.DEFAULT);
        host.ok("102A9080", ascii("first half"));
        for (String apdu : new String[] {"", "00", "002A90", "002A908002 00", "002A908000 00", "002A908000 0000 00",
            "002A908000 8000" + "00".repeat(32768)}) {
            assertEquals(0x6700, host.sw(apdu), apdu);
        }
        // The chain was not broken.
        host.ok("002A9080", ascii(", second half"));
        host.verify(Profile.DEFAULT.pin());
        byte[] answer = host.data(Host.authorisation(Host.ECDSA_SHA256, Host.value(1)));
        host.open(Profile.DEFAULT, Host.ECDSA_SHA256, 1, Crypto.sha256(ascii("first half, second half")), answer, Host.value(1));
    }

    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void transientMemoryDies(boolean byReset) {
        Profile profile = Profile.DEFAULT.with(Host.ROLLING, Host.CBC, Host.SESSION, Host.ON_CARD);
        Host host = Host.enrolled(profile);
        host.hash(ascii("m"));
        host.verify(profile.pin());
        if (byReset) {
            host.card.reset();
        }
        host.select();
        for (String array : new String[] {"io", "ram"}) {
            byte[] memory = memory(host, "session", array);
            assertArrayEquals(new byte[memory.length], memory, array);
        }
        assertEquals(0x63C3, host.sw("00200081"));
        assertEquals(0x6985, host.raw(Host.authorisation(Host.ECDSA_SHA256, Host.value(1))).sw());
    }

    @Test
    void noSecretStaysInWorkMemory() {
        Host host = Host.enrolled(Profile.DEFAULT);
        host.hash(ascii("m"));
        host.verify(Profile.DEFAULT.pin());
        host.data(Host.authorisation(Host.ECDSA_SHA256, Host.value(1)));
        // Policy always: hash, verification and KEK are consumed, so nothing at all is left.
        for (String array : new String[] {"io", "ram"}) {
            byte[] memory = memory(host, "session", array);
            assertArrayEquals(new byte[memory.length], memory, array);
        }
    }

    /** Wrapped KCAR of another key: the KEK had been opened by then. */
    @Test
    void aRefusedInstallLeavesNothingOfWhatItOpened() {
        Host host = Host.fresh();
        byte[] install = host.installData(Profile.DEFAULT, host.begin());
        int kcar = 0;
        while ((install[kcar] & 0xFF) != 0x91) {
            kcar += 2 + install[kcar + 1];
        }
        install[kcar + 2] ^= 1;
        assertEquals(0x6A80, host.sw("80620000", install));
        assertArrayEquals(new byte[191], memory(host, "session", "ram"));
        host.enrol(Profile.DEFAULT);
        assertArrayEquals(new byte[191], memory(host, "session", "ram"));
    }

    @Test
    void neitherKekNorPinIsInPersistentMemory() {
        Host host = Host.enrolled(Profile.DEFAULT);
        String memory = Crypto.hex(memory(host, "store", "data"));
        assertTrue(memory.contains(Crypto.hex(host.kcar)));
        for (byte[] secret : new byte[][] {host.kek, ascii(Profile.DEFAULT.pin()), ascii(Profile.DEFAULT.puk())}) {
            assertFalse(memory.contains(Crypto.hex(secret)));
        }
    }

    @Test
    void pinCheckByTheServerKeepsOneByteOfPowf() {
        for (int check : new int[] {Host.ON_CARD, Host.ON_SERVER}) {
            Profile profile = Profile.DEFAULT.with(Host.ROLLING, Host.CBC, Host.ALWAYS, check);
            Host host = Host.enrolled(profile);
            host.ok("00240081", cat(bytes(6), ascii(profile.pin()), ascii("246810")));
            byte[] guard = Arrays.copyOfRange(memory(host, "store", "data"), 67, 67 + 96);
            byte[] powf = Crypto.sha256(ascii("hsm-signer/1/powf"), bytes(1), Arrays.copyOfRange(guard, 80, 96), ascii("246810"));
            int kept = check == Host.ON_CARD ? 32 : 1;
            byte[] expected = Arrays.copyOf(Arrays.copyOf(powf, kept), 32);
            assertArrayEquals(expected, Arrays.copyOfRange(guard, 48, 80));
        }
    }

    @Test
    void theEphemeralKeyDies() {
        Host host = Host.fresh();
        host.begin();
        assertTrue(privateKey(host).isInitialized());
        host.card.reset();
        host.select();
        assertFalse(privateKey(host).isInitialized());

        host.begin();
        host.select();
        assertFalse(privateKey(host).isInitialized());
        assertEquals(0x6985, host.sw("80620000 01 00"));

        for (String install : new String[] {"90620000 01 00", "80620001 01 00", "80620000", "80620000 01 00", "80620000 02 84"}) {
            host.begin();
            assertTrue(host.sw(install) != 0x9000);
            boolean malformed = install.endsWith("02 84");
            assertEquals(malformed, privateKey(host).isInitialized(), install);
        }
        byte[] point = host.begin();
        assertEquals(0x9000, host.sw("806EAA55"));
        assertFalse(privateKey(host).isInitialized());
        assertEquals(0x6985, host.sw("80620000", host.installData(Profile.DEFAULT, point)));

        host.enrol(Profile.DEFAULT);
        assertFalse(privateKey(host).isInitialized());
    }

    @Test
    void otherCommandsLeaveTheEphemeralKey() {
        Host host = Host.fresh();
        byte[] point = host.begin();
        assertEquals(0x9000, host.sw("80CA000000"));
        assertEquals(0x6D00, host.sw("00620000 01 00"));
        assertEquals(0x6985, host.sw("00200081"));
        host.ok("80620000", host.installData(Profile.DEFAULT, point));
    }

    @Test
    void anOldPointIsNoUseAfterBegin() {
        Host host = Host.fresh();
        byte[] old = host.begin();
        byte[] point = host.begin();
        assertFalse(Arrays.equals(old, point));
        assertEquals(0x6A80, host.sw("80620000", host.installData(Profile.DEFAULT, old)));
        host.enrol(Profile.DEFAULT);
    }

    /** jCardSim would read a private key with a leading zero byte wrong; see Platform. */
    @Test
    void aClearedPrivateKeyLeavesNoContainerBehind() {
        Host host = Host.enrolled(Profile.OF_BASIC);
        assertNull(Platform.read(Platform.read(privateKey(host), "s"), "data"));
    }

    @Test
    void twoCardsHaveDifferentKeysAndSerials() {
        Host one = Host.fresh();
        Host other = Host.fresh();
        assertFalse(Arrays.equals(one.begin(), other.begin()));
        assertFalse(Arrays.equals(one.status().get(0x87), other.status().get(0x87)));
    }

    @Test
    void installRefusesEveryPointOffTheCurve() {
        Host host = Host.fresh();
        byte[] good = Host.TOKEN_POINT;
        byte[] plusOne = good.clone();
        plusOne[64]++;
        byte[] swapped = cat(bytes(4), Arrays.copyOfRange(good, 33, 65), Arrays.copyOfRange(good, 1, 33));
        byte[] compressed = good.clone();
        compressed[0] = 2;
        for (byte[] point : List.of(plusOne, swapped, compressed, cat(bytes(4), new byte[64]))) {
            byte[] install = host.installData(Profile.OF_BASIC, host.begin());
            int at = 18 + 3 + 3 + 2;
            assertArrayEquals(good, Arrays.copyOfRange(install, at, at + 65));
            System.arraycopy(point, 0, install, at, 65);
            assertEquals(0x6A80, host.sw("80620000", install));
            assertEquals(1, host.status(0x81));
        }
    }

    @Test
    void everyChangedByteOfInstallIsRefusedAndChangesNothing() {
        Host host = Host.fresh();
        byte[] before = memory(host, "store", "data").clone();
        int length = host.installData(Profile.DEFAULT, host.begin()).length;
        for (int i = 0; i < length; i++) {
            byte[] install = host.installData(Profile.DEFAULT, host.begin());
            boolean free = isSecretText(install, i);
            install[i] ^= 0x40;
            int sw = host.sw("80620000", install);
            if (free && sw == 0x9000) {
                // A byte of the PUK: not bound by K_r, and another character is as good.
                assertEquals(0x9000, host.sw("00200081", ascii(Profile.DEFAULT.pin())));
                assertEquals(0x9000, host.sw("806EAA55"));
                continue;
            }
            assertEquals(0x6A80, sw, "byte " + i);
            assertArrayEquals(before, memory(host, "store", "data"), "byte " + i);
        }
    }

    private static boolean isSecretText(byte[] install, int at) {
        int tag = 0;
        while (tag + 2 + install[tag + 1] <= at) {
            tag += 2 + install[tag + 1];
        }
        return (install[tag] & 0xFF) == 0x94 && at >= tag + 2;
    }

    @Test
    void factoryResetOverwritesEverythingButTheSerial() {
        Host host = Host.enrolled(Profile.DEFAULT);
        byte[] serial = host.status().get(0x87);
        assertEquals(0x6982, host.sw("806EAA55"));
        host.verify(Profile.DEFAULT.pin());
        assertEquals(0x9000, host.sw("806EAA55"));
        byte[] memory = memory(host, "store", "data");
        assertArrayEquals(cat(serial, new byte[memory.length - 8]), memory);
        assertEquals(1, host.status(0x81));
        host.enrol(Profile.OF_BASIC);
        assertEquals(0x9000, host.sw("806EAA55"));
    }

    @Test
    void theOriginKeyDiesUntilItIsIssuedAndThenStays() {
        Host host = Host.fresh();
        for (boolean byReset : new boolean[] {false, true}) {
            host.data(hex("8068000000"));
            assertTrue(originKey(host).isInitialized());
            if (byReset) {
                host.card.reset();
            }
            host.select();
            assertFalse(originKey(host).isInitialized());
            assertEquals(0x6985, host.sw("806A0000", new byte[64]));
        }
        byte[] point = host.issue();
        host.card.reset();
        host.select();
        assertTrue(originKey(host).isInitialized());
        byte[] before = memory(host, "store", "data").clone();
        host.enrol(Profile.OF_BASIC);
        assertEquals(0x9000, host.sw("806EAA55"));
        assertArrayEquals(before, memory(host, "store", "data"));
        host.select();
        Map<Integer, byte[]> answer = Host.parse(host.data(hex("8060000000")));
        assertArrayEquals(cat(point, new byte[64]), answer.get(0x8B));
        byte[] signed = cat(ascii("hsm-signer/2/card-origin"), answer.get(0x90), answer.get(0x87));
        assertTrue(Crypto.verifies(point, signed, answer.get(0x8C)));
        signed[signed.length - 1] ^= 1;
        assertFalse(Crypto.verifies(point, signed, answer.get(0x8C)));
    }

    /** DER leaves zeros in front of r and s away, one signature in 128; r and s have 32 bytes always. */
    @Test
    void everyProofHas64Bytes() {
        Host host = Host.fresh();
        byte[] point = host.issue();
        int shortened = 0;
        for (int i = 0; i < 2000 && shortened < 3; i++) {
            Map<Integer, byte[]> answer = Host.parse(host.data(hex("8060000000")));
            byte[] proof = answer.get(0x8C);
            assertEquals(64, proof.length);
            if (proof[0] == 0 || proof[32] == 0) {
                shortened++;
                byte[] signed = cat(ascii("hsm-signer/2/card-origin"), answer.get(0x90), answer.get(0x87));
                assertTrue(Crypto.verifies(point, signed, proof));
            }
        }
        assertEquals(3, shortened);
    }

    private static ECPrivateKey originKey(Host host) {
        return (ECPrivateKey) Platform.read(Platform.read(host.card.platform().applet(), "keys"), "originPrivateKey");
    }

    @Test
    void overT0ACommandWithoutDataReceivesNone() {
        Host host = Host.enrolled(Profile.DEFAULT);
        host.card.simulator().changeProtocol("T=0");
        assertEquals(57, host.data(hex("80CA000039")).length);
        assertEquals(0x6129, host.sw("80CA000010"));
        assertEquals(41, host.data(hex("00C0000029")).length);
        host.authorise(Profile.DEFAULT, ascii("m"), Host.value(1));

        // A real platform would wait for as many bytes as Le says; jCardSim does not, so the call itself is looked for.
        for (String header : new String[] {"80CA000039", "8060000000", "806EAA5500"}) {
            APDU apdu = mock(APDU.class);
            byte[] buffer = new byte[133];
            System.arraycopy(hex(header), 0, buffer, 0, 5);
            when(apdu.getBuffer()).thenReturn(buffer);
            try {
                host.card.platform().applet().process(apdu);
            } catch (ISOException e) {
                assertFalse(header.startsWith("80CA"), "GET STATUS failed");
            }
            verify(apdu, never()).setIncomingAndReceive();
        }
    }
}
