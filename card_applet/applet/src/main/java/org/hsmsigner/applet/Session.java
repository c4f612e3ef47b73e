package org.hsmsigner.applet;

import javacard.framework.JCSystem;
import javacard.framework.Util;

/**
 * Transient memory ("Memory", "Transient" of the contract). CLEAR_ON_DESELECT, and cleared by the applet at
 * every selection too, so that nothing here outlives reset, power-off, deselection or re-selection.
 */
final class Session {
    // Offsets in io.
    /** Where command data stand, so that AUTHORISE can write Q_i over RN_i that it has used: 16 + 40 i <= IN + 3 + 32 i. */
    static final short IN = 56;
    static final short IO_LENGTH = (short) (IN + Contract.SHORT_DATA_MAX);
    /** A new PIN guard, out of the way of the PINs of CHANGE and RESET RETRY COUNTER. */
    static final short STAGE_PIN = 128;
    /** A new PUK guard. */
    static final short STAGE_PUK = 0;

    // Offsets in ram: state.
    static final short VERIFIED = 0;
    /** BEGIN PERSONALISATION has been since the last selection. */
    static final short PERSONALISING = 1;
    /** Mode of the partial hash, 0: none. */
    static final short PARTIAL = 2;
    /** Mode of the loaded hash, 0: none. */
    static final short LOADED = 3;
    static final short PARTIAL_DIGEST_LENGTH = 4;
    static final short LOADED_DIGEST_LENGTH = 5;
    static final short H = 6;
    static final short KEK = (short) (H + 32);
    /** BEGIN ISSUE has been since the last selection: the origin key waits for ISSUE. */
    static final short ISSUING = (short) (KEK + 32);
    // Offsets in ram: work, wiped after every command.
    static final short WORK = (short) (ISSUING + 1);
    static final short KEY = WORK;
    static final short VALUE = (short) (KEY + 32);
    static final short DIGEST = (short) (VALUE + 40);
    static final short BLOCK = (short) (DIGEST + 32);
    static final short RAM_LENGTH = (short) (BLOCK + 16);

    // Indices in num.
    /** Where in io the bytes for GET RESPONSE begin. */
    static final short WAIT_OFFSET = 0;
    static final short WAIT_LENGTH = 1;
    /** Digests of the list not yet complete, unsigned. */
    static final short DIGESTS_LEFT = 2;
    /** Bytes seen of the digest that is not yet complete. */
    static final short DIGEST_SEEN = 3;
    static final short NUM_LENGTH = 4;

    /** Command data, and the answer until it has been fetched. */
    final byte[] io;
    final byte[] ram;
    final short[] num;

    Session() {
        io = JCSystem.makeTransientByteArray(IO_LENGTH, JCSystem.CLEAR_ON_DESELECT);
        ram = JCSystem.makeTransientByteArray(RAM_LENGTH, JCSystem.CLEAR_ON_DESELECT);
        num = JCSystem.makeTransientShortArray(NUM_LENGTH, JCSystem.CLEAR_ON_DESELECT);
    }

    /** Everything dies. */
    void clear() {
        Util.arrayFillNonAtomic(ram, (short) 0, RAM_LENGTH, (byte) 0);
        wipeIo();
        num[DIGESTS_LEFT] = 0;
        num[DIGEST_SEEN] = 0;
    }

    /** Keys and digests of one command. */
    void wipeWork() {
        Util.arrayFillNonAtomic(ram, WORK, (short) (RAM_LENGTH - WORK), (byte) 0);
    }

    /** Command data and answer; nothing waits any more. */
    void wipeIo() {
        Util.arrayFillNonAtomic(io, (short) 0, IO_LENGTH, (byte) 0);
        num[WAIT_OFFSET] = 0;
        num[WAIT_LENGTH] = 0;
    }

    /** Verification and unblinded KEK. */
    void forgetKek() {
        ram[VERIFIED] = 0;
        Util.arrayFillNonAtomic(ram, KEK, Contract.KEY_LENGTH, (byte) 0);
    }

    /** Loaded hash. */
    void forgetHash() {
        ram[LOADED] = 0;
        ram[LOADED_DIGEST_LENGTH] = 0;
        Util.arrayFillNonAtomic(ram, H, Contract.KEY_LENGTH, (byte) 0);
    }
}
