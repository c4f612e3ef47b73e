package org.hsmsigner.applet;

import javacard.framework.APDU;
import javacard.framework.Applet;
import javacard.framework.ISO7816;
import javacard.framework.ISOException;
import javacard.framework.JCSystem;
import javacard.framework.SystemException;
import javacard.framework.Util;
import javacardx.apdu.ExtendedLength;

/**
 * The card of docs/understand/apdu.md, command by command; sections named in comments are that page's.
 *
 * <p>Everything is allocated by the constructor. Secrets stand in transient memory only, but for KCAR (in scheme
 * basic KEY), which stands in persistent memory as the contract says.
 */
public final class SignerApplet extends Applet implements ExtendedLength {
    private final Session session;
    private final Store store;
    private final Keys keys;
    // Their arrays, at hand.
    private final byte[] io;
    private final byte[] ram;
    private final short[] num;
    private final byte[] data;

    private SignerApplet() {
        if (JCSystem.getMaxCommitCapacity() < Store.COMMIT_CAPACITY) {
            SystemException.throwIt(SystemException.NO_RESOURCE);
        }
        session = new Session();
        store = new Store(session);
        keys = new Keys(session);
        io = session.io;
        ram = session.ram;
        num = session.num;
        data = store.data;
        keys.draw(data, Store.SERIAL, Contract.SERIAL_LENGTH);
    }

    /** Called by the platform; the instance AID comes with the parameters. */
    public static void install(byte[] parameters, short offset, byte length) {
        new SignerApplet().register(parameters, (short) (offset + 1), parameters[offset]);
    }

    /** Selection: the transient state dies, the ephemeral key too, and a torn FACTORY RESET is finished. */
    @Override
    public boolean select() {
        forget();
        if (data[Store.WIPING] != 0) {
            store.wipe();
        }
        return true;
    }

    @Override
    public void deselect() {
        forget();
    }

    /** Transient state, and keys that had to be persistent objects. */
    private void forget() {
        session.clear();
        keys.forgetPair();
        if (data[Store.ISSUED] == 0) {
            keys.forgetOrigin();
        }
    }

    @Override
    public void process(APDU apdu) {
        try {
            dispatch(apdu);
        } finally {
            session.wipeWork();
            if (num[Session.WAIT_LENGTH] == 0) {
                session.wipeIo();
            }
        }
    }

    /** Steps 1 to 7 of "Order of checks"; the others stand in the commands. */
    private void dispatch(APDU apdu) {
        byte[] buffer = apdu.getBuffer();
        byte ins = buffer[ISO7816.OFFSET_INS];
        byte ownClass = (byte) (buffer[ISO7816.OFFSET_CLA] & ~Contract.CHAINING);
        boolean more = (buffer[ISO7816.OFFSET_CLA] & Contract.CHAINING) != 0;
        short row = find(ownClass, ins);

        // Chaining: every APDU but the chain's next block drops the partial hash.
        if (!continues(buffer, row, ins)) {
            ram[Session.PARTIAL] = 0;
        }
        if (num[Session.WAIT_LENGTH] != 0) {
            if (isGetResponse(apdu, buffer)) {
                send(apdu, num[Session.WAIT_OFFSET], num[Session.WAIT_LENGTH]);
                return;
            }
            session.wipeIo();
        }

        if (ownClass != Contract.CLA_ISO && ownClass != Contract.CLA_OWN) {
            ISOException.throwIt(Contract.SW_UNKNOWN_CLASS);
        }
        if (row < 0) {
            ISOException.throwIt(Contract.SW_UNKNOWN_INSTRUCTION);
        }
        if (ins != Contract.INS_INSTALL) {
            check(apdu, buffer, row, more);
            run(apdu, buffer, ins, more);
            return;
        }
        // Any INSTALL that comes this far destroys the personalisation key, whatever it answers.
        boolean begun = ram[Session.PERSONALISING] != 0;
        ram[Session.PERSONALISING] = 0;
        try {
            if (!begun) {
                checkHeader(buffer, row, more);
                ISOException.throwIt(Contract.SW_CONDITIONS);
            }
            check(apdu, buffer, row, more);
            install(buffer, apdu.getIncomingLength());
        } finally {
            keys.forgetPair();
            if (begun) {
                // What was unwrapped on the way; before INSTALL there is no verification and no hash to lose.
                session.forgetKek();
                session.forgetHash();
            }
        }
    }

    private static short find(byte ownClass, byte ins) {
        byte[] commands = Contract.COMMANDS;
        for (short row = 0; row < (short) commands.length; row += Contract.COLUMNS) {
            if (commands[(short) (row + Contract.COL_CLA)] == ownClass
                    && commands[(short) (row + Contract.COL_INS)] == ins) {
                return row;
            }
        }
        return -1;
    }

    private boolean continues(byte[] buffer, short row, byte ins) {
        byte expected = ram[Session.PARTIAL] == Contract.MODE_MESSAGE ? Contract.INS_HASH_MESSAGE : Contract.INS_LOAD_DIGESTS;
        return ram[Session.PARTIAL] != 0 && row >= 0 && ins == expected && hasParameters(buffer, row);
    }

    private static boolean hasParameters(byte[] buffer, short row) {
        return buffer[ISO7816.OFFSET_P1] == Contract.COMMANDS[(short) (row + Contract.COL_P1)]
                && buffer[ISO7816.OFFSET_P2] == Contract.COMMANDS[(short) (row + Contract.COL_P2)];
    }

    private static boolean isGetResponse(APDU apdu, byte[] buffer) {
        return buffer[ISO7816.OFFSET_CLA] == Contract.CLA_ISO
                && buffer[ISO7816.OFFSET_INS] == Contract.INS_GET_RESPONSE
                && Util.getShort(buffer, ISO7816.OFFSET_P1) == 0
                && (isT0() || apdu.setIncomingAndReceive() == 0);
    }

    /** Over T=0 a command without data and one with look alike: P3 is then Le, and nothing may be received. */
    private static boolean isT0() {
        return (APDU.getProtocol() & APDU.PROTOCOL_TYPE_MASK) == APDU.PROTOCOL_T0;
    }

    /** Steps 3 to 5. */
    private void checkHeader(byte[] buffer, short row, boolean more) {
        byte flags = Contract.COMMANDS[(short) (row + Contract.COL_FLAGS)];
        if (more && (flags & Contract.CHAINED) == 0) {
            ISOException.throwIt(Contract.SW_NO_CHAINING);
        }
        if (!hasParameters(buffer, row)) {
            ISOException.throwIt(Contract.SW_WRONG_P1P2);
        }
        byte allowed = Contract.IN_BLANK;
        byte state = store.state();
        if (state == Contract.STATE_ACTIVE) {
            allowed = Contract.IN_ACTIVE;
        } else if (state == Contract.STATE_PIN_BLOCKED) {
            allowed = Contract.IN_BLOCKED;
        }
        // "wiping" stands here only where the second write of FACTORY RESET failed; the next selection ends it.
        if ((flags & allowed) == 0 || data[Store.WIPING] != 0) {
            ISOException.throwIt(Contract.SW_CONDITIONS);
        }
        byte ins = buffer[ISO7816.OFFSET_INS];
        if ((ins == Contract.INS_BEGIN_ISSUE || ins == Contract.INS_ISSUE)
                && (data[Store.ISSUED] != 0 || (ins == Contract.INS_ISSUE && ram[Session.ISSUING] == 0))) {
            ISOException.throwIt(Contract.SW_CONDITIONS);
        }
    }

    /** Steps 3 to 7. Receives the data of commands that are not chained into io. */
    private void check(APDU apdu, byte[] buffer, short row, boolean more) {
        checkHeader(buffer, row, more);
        byte ins = buffer[ISO7816.OFFSET_INS];
        if (ins == Contract.INS_VERIFY || ins == Contract.INS_CHANGE_REFERENCE_DATA
                || ins == Contract.INS_RESET_RETRY_COUNTER) {
            if (store.isBasic() || (ins == Contract.INS_RESET_RETRY_COUNTER && data[Store.HAS_PUK] == 0)) {
                ISOException.throwIt(Contract.SW_NO_REFERENCE_DATA);
            }
        }
        short most = (short) (Contract.COMMANDS[(short) (row + Contract.COL_NC_MAX)] & 0xFF);
        if ((Contract.COMMANDS[(short) (row + Contract.COL_FLAGS)] & Contract.CHAINED) != 0
                || (most == 0 && isT0())) {
            return;
        }
        short part = apdu.setIncomingAndReceive();
        short nc = apdu.getIncomingLength();
        if (nc < Contract.COMMANDS[(short) (row + Contract.COL_NC_MIN)] || nc > most) {
            ISOException.throwIt(Contract.SW_WRONG_LENGTH);
        }
        receive(apdu, buffer, part, nc);
    }

    /** All nc bytes, of which part have come, into io; the platform's buffer keeps none of them. */
    private void receive(APDU apdu, byte[] buffer, short part, short nc) {
        short offset = apdu.getOffsetCdata();
        short end = Session.IN;
        short limit = (short) (Session.IN + nc);
        while (part > 0 && (short) (end + part) <= limit) {
            end = Util.arrayCopyNonAtomic(buffer, offset, io, end, part);
            Util.arrayFillNonAtomic(buffer, offset, part, (byte) 0);
            if (end == limit) {
                return;
            }
            part = apdu.receiveBytes(offset);
        }
        if (end != limit) {
            ISOException.throwIt(Contract.SW_WRONG_LENGTH);
        }
    }

    private void run(APDU apdu, byte[] buffer, byte ins, boolean more) {
        switch (ins) {
            case Contract.INS_SELECT:
                answerSelect(apdu);
                break;
            case Contract.INS_GET_STATUS:
                send(apdu, (short) 0, writeStatus((short) 0));
                break;
            case Contract.INS_VERIFY:
                verify(apdu.getIncomingLength());
                break;
            case Contract.INS_CHANGE_REFERENCE_DATA:
                changeReferenceData(apdu.getIncomingLength());
                break;
            case Contract.INS_RESET_RETRY_COUNTER:
                resetRetryCounter(apdu.getIncomingLength());
                break;
            case Contract.INS_BEGIN_PERSONALISATION:
                beginPersonalisation(apdu);
                break;
            case Contract.INS_HASH_MESSAGE:
                hashMessage(apdu, buffer, more);
                break;
            case Contract.INS_LOAD_DIGESTS:
                loadDigests(apdu, buffer, more);
                break;
            case Contract.INS_AUTHORISE:
                authorise(apdu, apdu.getIncomingLength());
                break;
            case Contract.INS_BEGIN_ISSUE:
                beginIssue(apdu);
                break;
            case Contract.INS_ISSUE:
                issue();
                break;
            default:
                factoryReset();
                break;
        }
    }

    // Answers

    /**
     * Sends length bytes of io, or as many as the host allows, and 61xx. Le is never part of the length check;
     * an absent one, 0 here, asks for all.
     */
    private void send(APDU apdu, short offset, short length) {
        short most = apdu.setOutgoing();
        short now = most <= 0 || most >= length ? length : most;
        apdu.setOutgoingLength(now);
        apdu.sendBytesLong(io, offset, now);
        num[Session.WAIT_OFFSET] = (short) (offset + now);
        num[Session.WAIT_LENGTH] = (short) (length - now);
        if (now != length) {
            ISOException.throwIt((short) (Contract.SW_MORE_DATA | ((short) (length - now) & 0xFF)));
        }
    }

    private short tag(short at, byte tag, short length) {
        io[at] = tag;
        io[(short) (at + 1)] = (byte) length;
        return (short) (at + 2);
    }

    private short tlv(short at, byte tag, byte[] value, short offset, short length) {
        return Util.arrayCopyNonAtomic(value, offset, io, tag(at, tag, length), length);
    }

    private short tlvByte(short at, byte tag, byte value) {
        short next = tag(at, tag, (short) 1);
        io[next] = value;
        return (short) (next + 1);
    }

    private short tlvShort(short at, byte tag, short value) {
        return Util.setShort(io, tag(at, tag, (short) 2), value);
    }

    /** "Status TLVs" at the offset of io; returns the end. */
    private short writeStatus(short at) {
        byte state = store.state();
        boolean installed = state != Contract.STATE_BLANK;
        boolean guarded = installed && !store.isBasic();
        at = tlvShort(at, Contract.TAG_VERSION, Contract.VERSION);
        at = tlvByte(at, Contract.TAG_STATE, state);
        if (installed) {
            at = tlvByte(at, Contract.TAG_SCHEME, data[Store.SCHEME]);
            at = tlvByte(at, Contract.TAG_COMBINE, data[Store.COMBINE]);
            at = tlv(at, Contract.TAG_CREDENTIAL_ID, data, Store.CREDENTIAL_ID, Contract.CREDENTIAL_ID_LENGTH);
        }
        if (guarded) {
            at = tlvByte(at, Contract.TAG_PIN_LEFT, data[Store.PIN_LEFT]);
            if (data[Store.HAS_PUK] != 0) {
                at = tlvByte(at, Contract.TAG_PUK_LEFT, data[Store.PUK_LEFT]);
            }
        }
        at = tlv(at, Contract.TAG_SERIAL, data, Store.SERIAL, Contract.SERIAL_LENGTH);
        at = tlvShort(at, Contract.TAG_FEATURES, data[Store.ISSUED] == 0
                ? Contract.FEATURES : (short) (Contract.FEATURES | Contract.FEATURE_ORIGIN));
        if (guarded) {
            at = tlvByte(at, Contract.TAG_PIN_POLICY, data[Store.PIN_POLICY]);
            at = tlvByte(at, Contract.TAG_PIN_CHECK, data[Store.PIN_CHECK]);
        }
        return at;
    }

    /**
     * SELECT. The platform has selected the applet before this ("Selection"); SELECT of anything else comes
     * here as a command like any other.
     */
    private void answerSelect(APDU apdu) {
        short length = (short) Contract.AID.length;
        if (!selectingApplet() || apdu.getIncomingLength() != length
                || Util.arrayCompare(io, Session.IN, Contract.AID, (short) 0, length) != 0) {
            ISOException.throwIt(Contract.SW_NOT_FOUND);
        }
        short status = (short) (2 + 2 + length + 2);
        short end = writeStatus(status);
        tag((short) 0, Contract.TAG_FCI, (short) (end - 2));
        tlv((short) 2, Contract.TAG_AID, Contract.AID, (short) 0, length);
        tag((short) (status - 2), Contract.TAG_PROPRIETARY, (short) (end - status));
        send(apdu, (short) 0, end);
    }

    // PIN and PUK

    private static boolean isPin(byte[] value, short offset, short length) {
        return length >= Contract.PIN_MIN && length <= Contract.PIN_MAX
                && isWithin(value, offset, length, (byte) 0x30, (byte) 0x39);
    }

    private static boolean isPuk(byte[] value, short offset, short length) {
        return length >= Contract.PUK_MIN && length <= Contract.PUK_MAX
                && isWithin(value, offset, length, (byte) 0x21, (byte) 0x7E);
    }

    private static boolean isWithin(byte[] value, short offset, short length, byte low, byte high) {
        for (short i = 0; i < length; i++) {
            byte one = value[(short) (offset + i)];
            if (one < low || one > high) {
                return false;
            }
        }
        return true;
    }

    private static void wrongData() {
        ISOException.throwIt(Contract.SW_WRONG_DATA);
    }

    /**
     * Compares a PIN or PUK and unblinds the KEK into session memory. The try is gone from persistent memory
     * before the comparison begins, by a write that no transaction can take back; the comparison looks at every
     * byte. The caller gives the tries back with whatever else it writes. Throws 6983, 63Cx.
     */
    private void spendTry(byte role, short offset, short length) {
        short left = role == Contract.ROLE_PIN ? Store.PIN_LEFT : Store.PUK_LEFT;
        short guard = role == Contract.ROLE_PIN ? Store.PIN_GUARD : Store.PUK_GUARD;
        byte tries = data[left];
        if (tries <= 0) {
            ISOException.throwIt(Contract.SW_BLOCKED);
        }
        tries--;
        store.writeByte(left, tries);

        // Under PIN check 02 only the first byte of the PIN's POWF is there.
        short kept = role == Contract.ROLE_PIN && data[Store.PIN_CHECK] == Contract.CHECK_SERVER ? (short) 1 : (short) 32;
        powf(role, data, (short) (guard + Store.GUARD_CHECK_SALT), io, offset, length, ram, Session.DIGEST);
        byte difference = 0;
        for (short i = 0; i < kept; i++) {
            difference |= (byte) (ram[(short) (Session.DIGEST + i)] ^ data[(short) (guard + Store.GUARD_CHECK + i)]);
        }
        if (difference != 0) {
            session.forgetKek();
            ISOException.throwIt(tries == 0 ? Contract.SW_BLOCKED : (short) (Contract.SW_WRONG_SECRET | tries));
        }
        blind(role, data, Store.CREDENTIAL_ID, data, (short) (guard + Store.GUARD_SALT), io, offset, length, ram, Session.KEK);
        Keys.xor(ram, Session.KEK, data, (short) (guard + Store.GUARD_BLINDED), Contract.KEY_LENGTH);
    }

    /** POWF(role, s', X), 32 bytes. */
    private void powf(byte role, byte[] salts, short salt, byte[] secret, short offset, short length, byte[] out, short outOffset) {
        keys.begin(Contract.LABEL_POWF);
        keys.updateByte(role);
        keys.update(salts, salt, Contract.SALT_LENGTH);
        keys.finish(secret, offset, length, out, outOffset);
    }

    /** F(role, s, X), 32 bytes. */
    private void blind(byte role, byte[] ids, short id, byte[] salts, short salt, byte[] secret, short offset, short length,
            byte[] out, short outOffset) {
        keys.begin(Contract.LABEL_BLIND);
        keys.updateByte(role);
        keys.update(ids, id, Contract.CREDENTIAL_ID_LENGTH);
        keys.update(salts, salt, Contract.SALT_LENGTH);
        keys.finish(secret, offset, length, out, outOffset);
    }

    /** A guard with fresh salts at the stage, an offset of io, for the KEK in session memory. */
    private void makeGuard(byte role, byte check, byte[] ids, short id, byte[] secret, short offset, short length, short stage) {
        short salt = (short) (stage + Store.GUARD_SALT);
        short checkSalt = (short) (stage + Store.GUARD_CHECK_SALT);
        short powf = (short) (stage + Store.GUARD_CHECK);
        keys.draw(io, salt, Contract.SALT_LENGTH);
        keys.draw(io, checkSalt, Contract.SALT_LENGTH);
        blind(role, ids, id, io, salt, secret, offset, length, io, stage);
        Keys.xor(io, stage, ram, Session.KEK, Contract.KEY_LENGTH);
        powf(role, io, checkSalt, secret, offset, length, io, powf);
        if (check == Contract.CHECK_SERVER) {
            Util.arrayFillNonAtomic(io, (short) (powf + 1), (short) 31, (byte) 0);
        }
    }

    private void verify(short nc) {
        if (nc == 0) {
            if (ram[Session.VERIFIED] == 0) {
                byte left = data[Store.PIN_LEFT];
                ISOException.throwIt(left == 0 ? Contract.SW_BLOCKED : (short) (Contract.SW_WRONG_SECRET | left));
            }
            return;
        }
        if (!isPin(io, Session.IN, nc)) {
            wrongData();
        }
        spendTry(Contract.ROLE_PIN, Session.IN, nc);
        store.writeByte(Store.PIN_LEFT, data[Store.PIN_TRIES]);
        ram[Session.VERIFIED] = 1;
    }

    private void changeReferenceData(short nc) {
        short old = (short) (Session.IN + 1);
        short oldLength = (short) (io[Session.IN] & 0xFF);
        short fresh = (short) (old + oldLength);
        short freshLength = (short) (nc - 1 - oldLength);
        if (!isPin(io, old, oldLength) || !isPin(io, fresh, freshLength)) {
            wrongData();
        }
        spendTry(Contract.ROLE_PIN, old, oldLength);
        replacePin(fresh, freshLength, false);
    }

    private void resetRetryCounter(short nc) {
        short puk = (short) (Session.IN + 1);
        short pukLength = (short) (io[Session.IN] & 0xFF);
        short fresh = (short) (puk + pukLength);
        short freshLength = (short) (nc - 1 - pukLength);
        if (!isPuk(io, puk, pukLength) || !isPin(io, fresh, freshLength)) {
            wrongData();
        }
        spendTry(Contract.ROLE_PUK, puk, pukLength);
        replacePin(fresh, freshLength, true);
    }

    /** The new PIN stands in io, the KEK in session memory, which it leaves. */
    private void replacePin(short fresh, short length, boolean withPuk) {
        makeGuard(Contract.ROLE_PIN, data[Store.PIN_CHECK], data, Store.CREDENTIAL_ID, io, fresh, length, Session.STAGE_PIN);
        session.forgetKek();
        store.replacePin(io, Session.STAGE_PIN, withPuk);
    }

    // Personalisation

    private void beginPersonalisation(APDU apdu) {
        ram[Session.PERSONALISING] = 0;
        short at = tag((short) 0, Contract.TAG_POINT, Contract.POINT_LENGTH);
        keys.generate(io, at);
        ram[Session.PERSONALISING] = 1;
        at += Contract.POINT_LENGTH;
        at = tlv(at, Contract.TAG_SERIAL, data, Store.SERIAL, Contract.SERIAL_LENGTH);
        if (data[Store.ISSUED] != 0) {
            at = tlv(at, Contract.TAG_CERTIFICATE_OF_ORIGIN, data, Store.ORIGIN_CERTIFICATE, Contract.ORIGIN_CERTIFICATE_LENGTH);
            at = tag(at, Contract.TAG_PROOF_OF_ORIGIN, Contract.SIGNATURE_LENGTH);
            keys.proveOrigin(io, (short) 2, data, Store.SERIAL, io, at);
            at += Contract.SIGNATURE_LENGTH;
        }
        send(apdu, (short) 0, at);
    }

    // The card's origin

    private void beginIssue(APDU apdu) {
        if (ram[Session.ISSUING] == 0) {
            keys.generateOrigin();
            ram[Session.ISSUING] = 1;
        }
        short at = tag((short) 0, Contract.TAG_ORIGIN_POINT, Contract.COMPRESSED_POINT_LENGTH);
        keys.originPoint(io, at);
        at += Contract.COMPRESSED_POINT_LENGTH;
        at = tlv(at, Contract.TAG_SERIAL, data, Store.SERIAL, Contract.SERIAL_LENGTH);
        send(apdu, (short) 0, at);
    }

    /** The issuer's signature stands at IN of io; the certificate is put together in front of it. */
    private void issue() {
        keys.originPoint(io, (short) 0);
        Util.arrayCopyNonAtomic(io, Session.IN, io, Contract.COMPRESSED_POINT_LENGTH, Contract.SIGNATURE_LENGTH);
        store.issue(io, (short) 0);
        ram[Session.ISSUING] = 0;
    }

    /** Offset of the value of a tag among nc bytes of TLVs in io, or -1. */
    private short value(byte tag, short nc) {
        short end = (short) (Session.IN + nc);
        for (short at = Session.IN; at < end; at += (short) (2 + io[(short) (at + 1)])) {
            if (io[at] == tag) {
                return (short) (at + 2);
            }
        }
        return -1;
    }

    private short lengthAt(short value) {
        return io[(short) (value - 1)];
    }

    /** The value of a tag that has to be there, with this length. */
    private short value(byte tag, short nc, short length) {
        short at = value(tag, nc);
        if (at < 0 || lengthAt(at) != length) {
            wrongData();
        }
        return at;
    }

    /** Tags known, each once, lengths below 80 and within the data. Returns their number. */
    private short countTlvs(short nc) {
        short end = (short) (Session.IN + nc);
        short count = 0;
        short at = Session.IN;
        while (at < end) {
            // A tag that stands before this one too is found there first.
            if ((short) (end - at) < 2 || io[(short) (at + 1)] < 0 || (short) (end - at - 2) < io[(short) (at + 1)]
                    || value(io[at], (short) (at + 1 - Session.IN)) != (short) (at + 2)) {
                wrongData();
            }
            at += (short) (2 + io[(short) (at + 1)]);
            count++;
        }
        return count;
    }

    private static boolean isTries(byte value) {
        return value >= Contract.TRIES_MIN && value <= Contract.TRIES_MAX;
    }

    /** INSTALL, steps 8 and on: "INSTALL TLVs", "Formulas". The buffer of the platform serves for the card's point. */
    private void install(byte[] buffer, short nc) {
        short count = countTlvs(nc);
        byte scheme = io[value(Contract.TAG_SCHEME, nc, (short) 1)];
        byte combine = io[value(Contract.TAG_COMBINE, nc, (short) 1)];
        short id = value(Contract.TAG_CREDENTIAL_ID, nc, Contract.CREDENTIAL_ID_LENGTH);
        short point = value(Contract.TAG_POINT, nc, Contract.POINT_LENGTH);
        short wrappedKek = value(Contract.TAG_WRAPPED_KEK, nc, Contract.WRAPPED_KEY_LENGTH);
        boolean basic = scheme == Contract.SCHEME_BASIC;
        byte policy = 0;
        byte check = 0;
        byte pinTries = 0;
        byte pukTries = 0;
        short wrappedKcar = 0;
        short pin = 0;
        short pinLength = 0;
        short puk = -1;
        short pukLength = 0;
        if (basic) {
            if (count != 5 || combine != Contract.COMBINE_NONE) {
                wrongData();
            }
        } else {
            policy = io[value(Contract.TAG_PIN_POLICY, nc, (short) 1)];
            check = io[value(Contract.TAG_PIN_CHECK, nc, (short) 1)];
            short tries = value(Contract.TAG_TRIES, nc, (short) 2);
            pinTries = io[tries];
            pukTries = io[(short) (tries + 1)];
            wrappedKcar = value(Contract.TAG_WRAPPED_KCAR, nc, Contract.WRAPPED_KEY_LENGTH);
            pin = value(Contract.TAG_PIN, nc);
            puk = value(Contract.TAG_PUK, nc);
            if (pin < 0 || count != (short) (puk < 0 ? 10 : 11)
                    || (scheme != Contract.SCHEME_PIN && scheme != Contract.SCHEME_ROLLING)
                    || (combine != Contract.COMBINE_XOR && combine != Contract.COMBINE_CBC)
                    || (policy != Contract.POLICY_ALWAYS && policy != Contract.POLICY_SESSION)
                    || (check != Contract.CHECK_CARD && check != Contract.CHECK_SERVER)
                    || !isTries(pinTries) || !isTries(pukTries)) {
                wrongData();
            }
            pinLength = lengthAt(pin);
            if (!isPin(io, pin, pinLength)) {
                wrongData();
            }
            if (puk >= 0) {
                pukLength = lengthAt(puk);
                if (!isPuk(io, puk, pukLength)) {
                    wrongData();
                }
            }
        }
        if (!P256.isOnCurve(io, point, ram, Session.KEY, Session.DIGEST)
                || !keys.agree(io, point, ram, Session.KEY)) {
            wrongData();
        }

        // The parameters as K_r binds them and as the store keeps them, in front of the data.
        Util.arrayCopyNonAtomic(io, id, io, (short) 0, Contract.CREDENTIAL_ID_LENGTH);
        io[(short) (Store.SCHEME - Store.PARAMETERS)] = scheme;
        io[(short) (Store.COMBINE - Store.PARAMETERS)] = combine;
        io[(short) (Store.PIN_POLICY - Store.PARAMETERS)] = policy;
        io[(short) (Store.PIN_CHECK - Store.PARAMETERS)] = check;
        io[(short) (Store.PIN_TRIES - Store.PARAMETERS)] = pinTries;
        io[(short) (Store.PUK_TRIES - Store.PARAMETERS)] = pukTries;
        keys.point(buffer, (short) 0);
        open((byte) 2, buffer, point, wrappedKek, Session.KEK);
        if (!basic) {
            open((byte) 1, buffer, point, wrappedKcar, Session.H);
        }

        // The parameters leave io for the platform's buffer, PIN and PUK for work memory: the guards need io.
        Util.arrayCopyNonAtomic(io, (short) 0, buffer, (short) 0, Store.PARAMETERS_LENGTH);
        if (!basic) {
            Util.arrayCopyNonAtomic(io, pin, ram, Session.VALUE, pinLength);
            if (puk >= 0) {
                Util.arrayCopyNonAtomic(io, puk, ram, Session.KEY, pukLength);
                makeGuard(Contract.ROLE_PUK, Contract.CHECK_CARD, buffer, (short) 0, ram, Session.KEY, pukLength, Session.STAGE_PUK);
            }
            makeGuard(Contract.ROLE_PIN, check, buffer, (short) 0, ram, Session.VALUE, pinLength, Session.STAGE_PIN);
        }
        store.install(buffer, (short) 0, ram, basic ? Session.KEK : Session.H,
                io, Session.STAGE_PIN, Session.STAGE_PUK, puk >= 0);
    }

    /** Unwraps under K_r, with Z at KEY of ram, the card's point in front of the buffer, the parameters in front of io. */
    private void open(byte r, byte[] buffer, short point, short wrapped, short out) {
        keys.begin(Contract.LABEL_PERSONALISE);
        keys.updateByte(r);
        keys.update(io, (short) 0, Store.PARAMETERS_LENGTH);
        keys.update(buffer, (short) 0, Contract.POINT_LENGTH);
        keys.finish(io, point, Contract.POINT_LENGTH, ram, Session.DIGEST);
        keys.cbc(ram, Session.KEY, ram, Session.DIGEST);
        Util.arrayCopyNonAtomic(io, wrapped, ram, Session.VALUE, Contract.WRAPPED_KEY_LENGTH);
        if (!keys.unwrap(ram, Session.DIGEST, ram, Session.VALUE)) {
            wrongData();
        }
        Util.arrayCopyNonAtomic(ram, (short) (Session.VALUE + 8), ram, out, Contract.KEY_LENGTH);
    }

    // Hash first, then PIN

    /** An accepted first block: one PIN entry cannot be spent on another message. */
    private void beginHash(byte mode, byte digestLength) {
        session.forgetHash();
        if (data[Store.PIN_POLICY] == Contract.POLICY_ALWAYS) {
            session.forgetKek();
        }
        ram[Session.PARTIAL] = mode;
        ram[Session.PARTIAL_DIGEST_LENGTH] = digestLength;
        keys.sha.reset();
    }

    /** Hashes what has come, at the offset of the buffer, and the rest of the block; the last block makes H. */
    private void hashBlock(APDU apdu, byte[] buffer, short start, short part, short rest, boolean more) {
        keys.update(buffer, start, part);
        short offset = apdu.getOffsetCdata();
        while (rest > 0) {
            part = apdu.receiveBytes(offset);
            if (part <= 0) {
                ram[Session.PARTIAL] = 0;
                ISOException.throwIt(Contract.SW_WRONG_LENGTH);
            }
            keys.update(buffer, offset, part);
            rest -= part;
        }
        if (!more) {
            keys.finish(buffer, offset, (short) 0, ram, Session.H);
            ram[Session.LOADED] = ram[Session.PARTIAL];
            ram[Session.LOADED_DIGEST_LENGTH] = ram[Session.PARTIAL_DIGEST_LENGTH];
            ram[Session.PARTIAL] = 0;
        }
    }

    private void hashMessage(APDU apdu, byte[] buffer, boolean more) {
        short part = apdu.setIncomingAndReceive();
        if (ram[Session.PARTIAL] == 0) {
            beginHash(Contract.MODE_MESSAGE, (byte) 0);
        }
        hashBlock(apdu, buffer, apdu.getOffsetCdata(), part, (short) (apdu.getIncomingLength() - part), more);
    }

    private void loadDigests(APDU apdu, byte[] buffer, boolean more) {
        short part = apdu.setIncomingAndReceive();
        short nc = apdu.getIncomingLength();
        short start = apdu.getOffsetCdata();
        if (ram[Session.PARTIAL] != 0) {
            if (!account(nc, ram[Session.PARTIAL_DIGEST_LENGTH], more)) {
                ram[Session.PARTIAL] = 0;
                wrongData();
            }
            hashBlock(apdu, buffer, start, part, (short) (nc - part), more);
            return;
        }
        if (nc < Contract.DIGESTS_HEADER) {
            ISOException.throwIt(Contract.SW_WRONG_LENGTH);
        }
        while (part < Contract.DIGESTS_HEADER) {
            part += apdu.receiveBytes((short) (start + part));
        }
        short count = Util.getShort(buffer, start);
        byte length = buffer[(short) (start + 2)];
        if (count == 0 || (length != 32 && length != 48 && length != 64)) {
            wrongData();
        }
        num[Session.DIGESTS_LEFT] = count;
        num[Session.DIGEST_SEEN] = 0;
        if (!account((short) (nc - Contract.DIGESTS_HEADER), length, more)) {
            wrongData();
        }
        beginHash(Contract.MODE_DIGESTS, length);
        keys.update(Contract.LABEL_DIGESTS, (short) 0, (short) Contract.LABEL_DIGESTS.length);
        // The header is hashed as it comes, with the digests that follow it.
        hashBlock(apdu, buffer, start, part, (short) (nc - part), more);
    }

    /**
     * Counts bytes of digests against what the header announced, in 16 bits: whole digests left, unsigned, and
     * bytes seen of the next. False if they are too many, or too few at the last block.
     */
    private boolean account(short bytes, byte length, boolean more) {
        short whole = (short) (bytes / length);
        short seen = (short) (num[Session.DIGEST_SEEN] + bytes % length);
        if (seen >= length) {
            seen -= length;
            whole++;
        }
        short left = num[Session.DIGESTS_LEFT];
        // Negative: 32768 or more, which no block fills.
        if (left >= 0 && (whole > left || (whole == left && seen != 0))) {
            return false;
        }
        left -= whole;
        num[Session.DIGESTS_LEFT] = left;
        num[Session.DIGEST_SEEN] = seen;
        return more || left == 0;
    }

    // AUTHORISE

    /** Offset in ALGORITHMS of the code at the offset of io, or -1. */
    private short algorithm(short offset) {
        for (short row = 0; row < (short) Contract.ALGORITHMS.length; row += 3) {
            if (Util.arrayCompare(io, offset, Contract.ALGORITHMS, row, (short) 2) == 0) {
                return row;
            }
        }
        return -1;
    }

    private void authorise(APDU apdu, short nc) {
        byte scheme = data[Store.SCHEME];
        byte combine = data[Store.COMBINE];
        short count = (short) (io[(short) (Session.IN + 2)] & 0xFF);
        short values = (short) (Session.IN + 3);
        if (nc != (short) (3 + 32 * count)) {
            ISOException.throwIt(Contract.SW_WRONG_LENGTH);
        }
        short row = algorithm(Session.IN);
        if (row < 0) {
            wrongData();
        }
        if (scheme != Contract.SCHEME_ROLLING) {
            if (count != 0) {
                wrongData();
            }
        } else if (count == 0 || count > Contract.ROLLING_VALUES_MAX || hasEqualValues(values, count)) {
            wrongData();
        }
        if (ram[Session.LOADED] == Contract.MODE_DIGESTS
                && ram[Session.LOADED_DIGEST_LENGTH] != Contract.ALGORITHMS[(short) (row + 2)]) {
            wrongData();
        }
        if (ram[Session.LOADED] == 0) {
            ISOException.throwIt(Contract.SW_CONDITIONS);
        }
        if (scheme != Contract.SCHEME_BASIC && ram[Session.VERIFIED] == 0) {
            ISOException.throwIt(Contract.SW_NOT_VERIFIED);
        }

        keys.draw(io, (short) 0, Contract.NONCE_LENGTH);
        keys.begin(Contract.LABEL_AUTHORISE);
        keys.update(data, Store.SCHEME, (short) 2);
        keys.update(io, Session.IN, (short) 2);
        keys.updateByte(ram[Session.LOADED]);
        keys.updateByte(data[Store.PIN_POLICY]);
        keys.update(data, Store.CREDENTIAL_ID, Contract.CREDENTIAL_ID_LENGTH);
        keys.update(io, (short) 0, Contract.NONCE_LENGTH);
        keys.update(io, (short) (Session.IN + 2), (short) (nc - 2));
        keys.finish(ram, Session.H, Contract.KEY_LENGTH, ram, Session.DIGEST);

        short answer = Contract.NONCE_LENGTH;
        byte position = 1;
        do {
            // KEY = T_i, VALUE = what it wraps.
            keys.begin(Contract.LABEL_POSITION);
            keys.updateByte(position);
            keys.finish(ram, Session.DIGEST, Contract.KEY_LENGTH, ram, Session.KEY);
            if (scheme == Contract.SCHEME_BASIC) {
                Util.arrayCopyNonAtomic(data, Store.SECRET, ram, Session.VALUE, Contract.KEY_LENGTH);
            } else {
                keys.combine(combine, data, Store.SECRET, ram, Session.KEY);
                if (scheme == Contract.SCHEME_PIN) {
                    Util.arrayCopyNonAtomic(ram, Session.KEK, ram, Session.VALUE, Contract.KEY_LENGTH);
                } else {
                    Util.arrayCopyNonAtomic(io, values, ram, Session.VALUE, Contract.KEY_LENGTH);
                    keys.combine(combine, ram, Session.KEK, ram, Session.VALUE);
                    values += Contract.KEY_LENGTH;
                }
            }
            keys.wrap(ram, Session.KEY, ram, Session.VALUE, io, answer);
            answer += Contract.WRAPPED_KEY_LENGTH;
            position++;
        } while (position <= count);

        session.forgetHash();
        if (data[Store.PIN_POLICY] == Contract.POLICY_ALWAYS) {
            session.forgetKek();
        }
        send(apdu, (short) 0, answer);
    }

    private boolean hasEqualValues(short values, short count) {
        short end = (short) (values + 32 * count);
        for (short a = values; a < end; a += Contract.KEY_LENGTH) {
            for (short b = (short) (a + Contract.KEY_LENGTH); b < end; b += Contract.KEY_LENGTH) {
                if (Util.arrayCompare(io, a, io, b, Contract.KEY_LENGTH) == 0) {
                    return true;
                }
            }
        }
        return false;
    }

    // FACTORY RESET

    private void factoryReset() {
        boolean bothBlocked = data[Store.PIN_LEFT] == 0 && (data[Store.HAS_PUK] == 0 || data[Store.PUK_LEFT] == 0);
        if (store.state() != Contract.STATE_BLANK && !store.isBasic() && ram[Session.VERIFIED] == 0 && !bothBlocked) {
            ISOException.throwIt(Contract.SW_NOT_VERIFIED);
        }
        store.writeByte(Store.WIPING, (byte) 1);
        forget();
        store.wipe();
    }
}
