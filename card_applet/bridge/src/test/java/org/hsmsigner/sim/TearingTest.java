package org.hsmsigner.sim;

import static org.hsmsigner.sim.Crypto.ascii;
import static org.hsmsigner.sim.Crypto.bytes;
import static org.hsmsigner.sim.Crypto.cat;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.List;
import javacard.framework.TransactionException;
import javacard.security.MessageDigest;
import org.hsmsigner.sim.Host.Profile;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Power lost around every write ("Tearing" of docs/understand/apdu.md).
 *
 * <p>jCardSim has neither tearing nor rollback. The platform here adds both where the applet meets it: it keeps
 * the store's bytes at beginTransaction, puts them back when power is lost or the transaction is aborted, and can
 * fail at each of its calls. A write of one byte is preceded by getTransactionDepth, so power can be lost before
 * it; that a real card makes it atomic is the platform's promise, and not shown here.
 */
class TearingTest {
    private static final byte[] MESSAGE = ascii("m");

    /** Loses its power, or fails, at a chosen one of its calls. */
    private static final class TearingPlatform extends Platform {
        private int callsLeft = -1;
        private boolean fails;
        private boolean torn;
        private byte[] before;

        TearingPlatform() {
            super(Card.APPLET_AID);
        }

        /** Power is lost at call number {@code call}, from 1; or, if it fails, TransactionException is thrown. */
        void at(int call, boolean failing) {
            callsLeft = call;
            fails = failing;
            torn = false;
        }

        void disarm() {
            callsLeft = -1;
        }

        private void call() {
            if (callsLeft > 0 && --callsLeft == 0) {
                torn = true;
                if (fails) {
                    TransactionException.throwIt(TransactionException.BUFFER_FULL);
                }
                if (before != null) {
                    rollBack();
                }
                throw new PowerLost();
            }
        }

        byte[] store() {
            return (byte[]) read(read(applet(), "store"), "data");
        }

        private void rollBack() {
            System.arraycopy(before, 0, store(), 0, before.length);
            before = null;
        }

        @Override
        public byte getTransactionDepth() {
            if (!fails) {
                call();
            }
            return super.getTransactionDepth();
        }

        @Override
        public void beginTransaction() {
            call();
            super.beginTransaction();
            before = store().clone();
        }

        @Override
        public void abortTransaction() {
            super.abortTransaction();
            rollBack();
        }

        @Override
        public void commitTransaction() {
            call();
            super.commitTransaction();
            before = null;
            if (!fails) {
                call();
            }
        }
    }

    private static final class PowerLost extends Error {
        private static final long serialVersionUID = 1;
    }

    private final TearingPlatform platform = new TearingPlatform();
    private final Host host = new Host(new Card(platform));

    private void enrol(Profile profile) {
        host.select();
        host.enrol(profile);
    }

    private byte[] store() {
        return platform.store().clone();
    }

    /** Sends a command whose power is lost at a call; false if it was over before. */
    private boolean tear(int call, byte[] apdu) {
        platform.at(call, false);
        int sw = host.raw(apdu).sw();
        boolean torn = platform.torn;
        platform.disarm();
        assertEquals(torn ? 0x6F00 : 0x9000, sw);
        host.card.reset();
        return torn;
    }

    /** The bytes of the store that differ, and what they are now. */
    private static String changes(byte[] before, byte[] after) {
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < before.length; i++) {
            if (before[i] != after[i]) {
                text.append(i).append('=').append(after[i]).append(' ');
            }
        }
        return text.toString().strip();
    }

    private static final int PIN_LEFT = 32;
    private static final int PUK_LEFT = 33;

    @Test
    void verifyIsTornIntoATryLess() {
        enrol(Profile.DEFAULT);
        byte[] before = store();
        byte[] verify = Host.command("00200081", ascii(Profile.DEFAULT.pin()));
        assertTrue(tear(1, verify));
        assertEquals("", changes(before, store()));
        host.select();
        assertTrue(tear(2, verify));
        assertEquals(PIN_LEFT + "=2", changes(before, store()));
        host.select();
        assertFalse(tear(3, verify));
        assertEquals("", changes(before, store()));
    }

    @Test
    void tearingTheLastTryLeavesThePinBlocked() {
        enrol(Profile.DEFAULT.withTries(1, 1));
        assertTrue(tear(2, Host.command("00200081", ascii(Profile.DEFAULT.pin()))));
        host.select();
        assertEquals(4, host.status(0x81));
        assertEquals(0x6983, host.sw("00200081", ascii(Profile.DEFAULT.pin())));
    }

    /** Not one instruction of the comparison runs before the try is gone: the digest fails at its first use. */
    @ParameterizedTest
    @ValueSource(strings = {"00200081", "00240081", "002C0081"})
    void theTryIsGoneBeforeTheComparisonBegins(String header) {
        enrol(Profile.DEFAULT);
        String secret = header.equals("002C0081") ? Profile.DEFAULT.puk() : Profile.DEFAULT.pin();
        byte[] data = header.equals("00200081") ? ascii(secret) : cat(bytes(secret.length()), ascii(secret), ascii("111111"));
        byte[] before = store();
        Object keys = Platform.read(platform.applet(), "keys");
        Object sha = Platform.read(keys, "sha");
        Platform.write(keys, "sha", new BrokenDigest());
        assertEquals(0x6F00, host.sw(header, data));
        Platform.write(keys, "sha", sha);
        assertEquals((header.equals("002C0081") ? PUK_LEFT : PIN_LEFT) + "=2", changes(before, store()));
        assertEquals(0, platform.getTransactionDepth());
    }

    private static final class BrokenDigest extends MessageDigest {
        @Override
        public byte getAlgorithm() {
            return ALG_SHA_256;
        }

        @Override
        public byte getLength() {
            return 32;
        }

        @Override
        public short doFinal(byte[] in, short inOffset, short length, byte[] out, short outOffset) {
            throw new PowerLost();
        }

        @Override
        public void update(byte[] in, short offset, short length) {
            throw new PowerLost();
        }

        @Override
        public void reset() {
            throw new PowerLost();
        }
    }

    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void aPinChangeHasHappenedOrNot(boolean byPuk) {
        String secret = byPuk ? Profile.DEFAULT.puk() : Profile.DEFAULT.pin();
        byte[] change = Host.command(byPuk ? "002C0081" : "00240081", cat(bytes(secret.length()), ascii(secret), ascii("111111")));
        int left = byPuk ? PUK_LEFT : PIN_LEFT;
        enrol(Profile.DEFAULT);
        byte[] before = store();
        for (int call = 1; call <= 4; call++) {
            assertTrue(tear(call, change), "call " + call);
            String changes = changes(before, store());
            if (call == 1) {
                assertEquals("", changes);
            } else if (call < 4) {
                // Before beginTransaction, before commitTransaction: a try less. The authorisation below gives the PIN's back.
                assertEquals(left + "=" + (byPuk ? 3 - (call - 1) : 2), changes);
            }
            host.select();
            if (call < 4) {
                host.authorise(Profile.DEFAULT, MESSAGE, Host.value(1));
            }
        }
        // Call 4 came after the commit: the new PIN is there whole, and all tries.
        assertEquals(3, host.status(0x85));
        assertEquals(3, host.status(0x86));
        Profile changed = new Profile(Host.ROLLING, Host.CBC, Host.ALWAYS, Host.ON_CARD, 3, 3, "111111", Profile.DEFAULT.puk());
        host.authorise(changed, MESSAGE, Host.value(1));
    }

    @Test
    void installHasHappenedOrNot() {
        host.select();
        byte[] before = store();
        for (int call = 1; call <= 2; call++) {
            assertTrue(tear(call, Host.command("80620000", host.installData(Profile.DEFAULT, host.begin()))));
            assertArrayEquals(before, store());
            host.select();
            assertEquals(1, host.status(0x81));
        }
        assertTrue(tear(3, Host.command("80620000", host.installData(Profile.DEFAULT, host.begin()))));
        host.select();
        host.authorise(Profile.DEFAULT, MESSAGE, Host.value(1));
    }

    @Test
    void issueHasHappenedOrNot() {
        host.select();
        byte[] before = store();
        byte[] issue = Host.command("806A0000", new byte[64]);
        for (int call = 1; call <= 2; call++) {
            host.data(Crypto.hex("8068000000"));
            assertTrue(tear(call, issue));
            assertArrayEquals(before, store());
            host.select();
            assertEquals(0x6985, host.raw(issue).sw());
        }
        for (int call = 1; call <= 2; call++) {
            host.data(Crypto.hex("8068000000"));
            platform.at(call, true);
            assertEquals(0x6581, host.raw(issue).sw());
            platform.disarm();
            assertArrayEquals(before, store());
            assertEquals(0x6985, host.raw(issue).sw());
        }
        host.select();
        host.data(Crypto.hex("8068000000"));
        assertTrue(tear(3, issue));
        host.select();
        assertEquals(0x6985, host.sw("8068000000"));
        assertEquals(242, host.data(Crypto.hex("8060000000")).length);
    }

    @Test
    void aTornFactoryResetIsFinishedBySelect() {
        enrol(Profile.DEFAULT);
        byte[] serial = host.status().get(0x87);
        host.verify(Profile.DEFAULT.pin());
        byte[] before = store();
        byte[] reset = Crypto.hex("806EAA55");
        assertTrue(tear(1, reset));
        assertArrayEquals(before, store());
        host.select();
        host.verify(Profile.DEFAULT.pin());
        assertTrue(tear(2, reset));
        assertEquals(1, store()[8]);
        host.select();
        assertArrayEquals(cat(serial, new byte[before.length - 8]), store());
    }

    /** Power lost between the flag and the first byte of the wiping, and in the midst of it. */
    @ParameterizedTest
    @ValueSource(ints = {0, 1, 9, 10, 50, 200, 259})
    void wipingIsFinishedFromWhereverItStopped(int wiped) {
        enrol(Profile.DEFAULT);
        byte[] serial = host.status().get(0x87);
        byte[] memory = platform.store();
        memory[8] = 1;
        Arrays.fill(memory, Math.min(9, 8 + wiped), Math.max(9, wiped), (byte) 0);
        memory[8] = 1;
        // Until a selection nothing else is done.
        for (String apdu : List.of("80CA000000", "8060000000", "00200081", "806EAA55")) {
            assertEquals(0x6985, host.sw(apdu));
        }
        host.card.reset();
        byte[] status = host.select();
        assertEquals(36, status.length);
        assertArrayEquals(cat(serial, new byte[memory.length - 8]), store());
        host.enrol(Profile.OF_BASIC);
    }

    @Test
    void aFailingTransactionIs6581AndForgetsEverything() {
        Profile session = Profile.DEFAULT.with(Host.ROLLING, Host.CBC, Host.SESSION, Host.ON_CARD);
        for (int call = 1; call <= 2; call++) {
            host.card.reset();
            host.select();
            byte[] blank = store();
            byte[] install = host.installData(session, host.begin());
            platform.at(call, true);
            assertEquals(0x6581, host.sw("80620000", install));
            platform.disarm();
            assertArrayEquals(blank, store());
            assertEquals(0x6985, host.sw("80620000", install));
            enrol(session);
            for (boolean byPuk : new boolean[] {false, true}) {
                String secret = byPuk ? session.puk() : session.pin();
                host.hash(MESSAGE);
                host.verify(session.pin());
                byte[] before = store();
                platform.at(call, true);
                assertEquals(0x6581, host.sw(byPuk ? "002C0081" : "00240081", cat(bytes(secret.length()), ascii(secret), ascii("111111"))));
                platform.disarm();
                assertEquals((byPuk ? PUK_LEFT : PIN_LEFT) + "=2", changes(before, store()));
                byte[] ram = (byte[]) Platform.read(Platform.read(platform.applet(), "session"), "ram");
                assertArrayEquals(new byte[ram.length], ram);
                assertEquals(0, platform.getTransactionDepth());
                host.verify(session.pin());
            }
            assertEquals(0x9000, host.sw("806EAA55"));
        }
    }
}
