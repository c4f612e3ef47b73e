package org.hsmsigner.applet;

import javacard.framework.ISOException;
import javacard.framework.JCSystem;
import javacard.framework.TransactionException;
import javacard.framework.Util;

/**
 * Persistent memory ("Memory" and "Tearing" of the contract).
 *
 * <p>Two kinds of write, and no others: one byte outside any transaction, which the platform makes atomic and
 * which no transaction can take back (tries, "wiping"); and one transaction around everything else a command
 * changes. Overwriting at FACTORY RESET needs neither: the flag "wiping" stands until it is done.
 */
final class Store {
    // The parameters that K_r binds stand together and in its order.
    static final short SERIAL = 0;
    static final short WIPING = 8;
    static final short INSTALLED = 9;
    static final short PARAMETERS = 10;
    static final short CREDENTIAL_ID = PARAMETERS;
    static final short SCHEME = (short) (CREDENTIAL_ID + 16);
    static final short COMBINE = (short) (SCHEME + 1);
    static final short PIN_POLICY = (short) (COMBINE + 1);
    static final short PIN_CHECK = (short) (PIN_POLICY + 1);
    static final short PIN_TRIES = (short) (PIN_CHECK + 1);
    static final short PUK_TRIES = (short) (PIN_TRIES + 1);
    static final short PARAMETERS_LENGTH = 22;
    static final short PIN_LEFT = (short) (PARAMETERS + PARAMETERS_LENGTH);
    static final short PUK_LEFT = (short) (PIN_LEFT + 1);
    static final short HAS_PUK = (short) (PUK_LEFT + 1);
    /** KCAR; in scheme basic, which has none, KEY. */
    static final short SECRET = (short) (HAS_PUK + 1);
    static final short PIN_GUARD = (short) (SECRET + 32);

    // A guard, as the contract's Memory has it: PKREV, s, POWF, s'.
    static final short GUARD_BLINDED = 0;
    static final short GUARD_SALT = 32;
    static final short GUARD_CHECK = 48;
    static final short GUARD_CHECK_SALT = 80;
    static final short GUARD_LENGTH = 96;

    static final short PUK_GUARD = (short) (PIN_GUARD + GUARD_LENGTH);
    // What FACTORY RESET keeps, beside the serial.
    static final short ISSUED = (short) (PUK_GUARD + GUARD_LENGTH);
    static final short ORIGIN_CERTIFICATE = (short) (ISSUED + 1);
    static final short LENGTH = (short) (ORIGIN_CERTIFICATE + Contract.ORIGIN_CERTIFICATE_LENGTH);

    /** Bytes of the largest transaction, INSTALL, with the platform's book-keeping for its ten writes. */
    static final short COMMIT_CAPACITY = 300;

    final byte[] data;
    private final Session session;

    Store(Session transientMemory) {
        data = new byte[LENGTH];
        session = transientMemory;
    }

    byte state() {
        if (data[INSTALLED] == 0) {
            return Contract.STATE_BLANK;
        }
        if (data[SCHEME] != Contract.SCHEME_BASIC && data[PIN_LEFT] == 0) {
            return Contract.STATE_PIN_BLOCKED;
        }
        return Contract.STATE_ACTIVE;
    }

    boolean isBasic() {
        return data[SCHEME] == Contract.SCHEME_BASIC;
    }

    /**
     * One byte, at once and for good. Must not be inside a transaction: its abort would give a try back.
     * Reads it back, so that a write that did not take is 6581 and not a free try.
     */
    void writeByte(short offset, byte value) {
        if (JCSystem.getTransactionDepth() != 0) {
            JCSystem.abortTransaction();
            fail();
        }
        data[offset] = value;
        if (data[offset] != value) {
            fail();
        }
    }

    /** CHANGE REFERENCE DATA and RESET RETRY COUNTER, write 2. */
    void replacePin(byte[] guard, short offset, boolean withPuk) {
        try {
            JCSystem.beginTransaction();
            Util.arrayCopy(guard, offset, data, PIN_GUARD, GUARD_LENGTH);
            data[PIN_LEFT] = data[PIN_TRIES];
            if (withPuk) {
                data[PUK_LEFT] = data[PUK_TRIES];
            }
            JCSystem.commitTransaction();
        } catch (TransactionException e) {
            abort();
        }
    }

    /** INSTALL, write 1. In scheme basic the guards are zeros. */
    void install(byte[] parameters, short parametersOffset, byte[] secret, short secretOffset,
            byte[] guards, short pinGuard, short pukGuard, boolean withPuk) {
        try {
            JCSystem.beginTransaction();
            Util.arrayCopy(parameters, parametersOffset, data, PARAMETERS, PARAMETERS_LENGTH);
            data[PIN_LEFT] = data[PIN_TRIES];
            data[PUK_LEFT] = withPuk ? data[PUK_TRIES] : (byte) 0;
            data[HAS_PUK] = withPuk ? (byte) 1 : (byte) 0;
            Util.arrayCopy(secret, secretOffset, data, SECRET, Contract.KEY_LENGTH);
            if (data[SCHEME] != Contract.SCHEME_BASIC) {
                Util.arrayCopy(guards, pinGuard, data, PIN_GUARD, GUARD_LENGTH);
            }
            if (withPuk) {
                Util.arrayCopy(guards, pukGuard, data, PUK_GUARD, GUARD_LENGTH);
            }
            data[INSTALLED] = 1;
            JCSystem.commitTransaction();
        } catch (TransactionException e) {
            abort();
        }
    }

    /** ISSUE, write 1: the certificate counts, and with it the origin key, once the flag is set. */
    void issue(byte[] certificate, short offset) {
        try {
            JCSystem.beginTransaction();
            Util.arrayCopy(certificate, offset, data, ORIGIN_CERTIFICATE, Contract.ORIGIN_CERTIFICATE_LENGTH);
            data[ISSUED] = 1;
            JCSystem.commitTransaction();
        } catch (TransactionException e) {
            abort();
        }
    }

    /**
     * FACTORY RESET, write 2, and SELECT, write 1. Not in a transaction, whose log would keep a copy of what is
     * to vanish: "wiping" is set before and falls last, and overwriting twice does no harm.
     */
    void wipe() {
        data[INSTALLED] = 0;
        Util.arrayFillNonAtomic(data, PARAMETERS, (short) (ISSUED - PARAMETERS), (byte) 0);
        writeByte(WIPING, (byte) 0);
    }

    private void abort() {
        if (JCSystem.getTransactionDepth() != 0) {
            JCSystem.abortTransaction();
        }
        fail();
    }

    private void fail() {
        session.clear();
        ISOException.throwIt(Contract.SW_MEMORY_FAILURE);
    }
}
