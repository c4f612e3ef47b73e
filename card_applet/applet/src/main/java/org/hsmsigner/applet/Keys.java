package org.hsmsigner.applet;

import javacard.framework.ISO7816;
import javacard.framework.ISOException;
import javacard.framework.Util;
import javacard.security.AESKey;
import javacard.security.CryptoException;
import javacard.security.ECPrivateKey;
import javacard.security.ECPublicKey;
import javacard.security.KeyAgreement;
import javacard.security.KeyBuilder;
import javacard.security.KeyPair;
import javacard.security.MessageDigest;
import javacard.security.RandomData;
import javacard.security.Signature;
import javacardx.crypto.Cipher;

/**
 * What the card computes with keys: SHA-256, KW and CBC over AES-256 blocks, ECDH on P-256, random bytes.
 * Nothing here asks a platform for more than Java Card 2.2.2 had: no CMAC, no HMAC, no key-wrap cipher.
 */
final class Keys {
    /** RandomData's constant of Java Card 3.0.5, written out so that the applet compiles against 3.0.4 too. */
    private static final byte ALG_KEYGENERATION = 6;
    private static final byte KW_IV = (byte) 0xA6;
    private static final short HALF = 8;
    private static final short BLOCK = 16;
    private static final short HALVES = 4;

    /** One digest for everything: a command that needs it for itself has dropped the partial hash before. */
    final MessageDigest sha;
    private final RandomData random;
    private final AESKey aesKey;
    private final Cipher aes;
    private final KeyPair pair;
    private final ECPrivateKey privateKey;
    private final ECPublicKey publicKey;
    private final KeyAgreement agreement;
    private final KeyPair originPair;
    private final ECPrivateKey originPrivateKey;
    private final ECPublicKey originPublicKey;
    private final Signature signature;
    /** Scratch of one AES block. */
    private final byte[] ram;

    Keys(Session session) {
        ram = session.ram;
        sha = MessageDigest.getInstance(MessageDigest.ALG_SHA_256, false);
        random = generator();
        aesKey = (AESKey) KeyBuilder.buildKey(KeyBuilder.TYPE_AES_TRANSIENT_DESELECT, KeyBuilder.LENGTH_AES_256, false);
        aes = Cipher.getInstance(Cipher.ALG_AES_BLOCK_128_ECB_NOPAD, false);
        publicKey = (ECPublicKey) KeyBuilder.buildKey(KeyBuilder.TYPE_EC_FP_PUBLIC, KeyBuilder.LENGTH_EC_FP_256, false);
        privateKey = (ECPrivateKey) KeyBuilder.buildKey(KeyBuilder.TYPE_EC_FP_PRIVATE, KeyBuilder.LENGTH_EC_FP_256, false);
        pair = new KeyPair(publicKey, privateKey);
        agreement = KeyAgreement.getInstance(KeyAgreement.ALG_EC_SVDP_DH_PLAIN, false);
        originPublicKey = (ECPublicKey) KeyBuilder.buildKey(KeyBuilder.TYPE_EC_FP_PUBLIC, KeyBuilder.LENGTH_EC_FP_256, false);
        originPrivateKey = (ECPrivateKey) KeyBuilder.buildKey(KeyBuilder.TYPE_EC_FP_PRIVATE, KeyBuilder.LENGTH_EC_FP_256, false);
        originPair = new KeyPair(originPublicKey, originPrivateKey);
        signature = Signature.getInstance(Signature.ALG_ECDSA_SHA_256, false);
    }

    /** Never ALG_PSEUDO_RANDOM: a card with neither of these two is refused at installation. */
    private static RandomData generator() {
        try {
            return RandomData.getInstance(RandomData.ALG_SECURE_RANDOM);
        } catch (CryptoException e) {
            return RandomData.getInstance(ALG_KEYGENERATION);
        }
    }

    void draw(byte[] out, short offset, short length) {
        random.generateData(out, offset, length);
    }

    // SHA-256

    void begin(byte[] label) {
        sha.reset();
        sha.update(label, (short) 0, (short) label.length);
    }

    void update(byte[] data, short offset, short length) {
        if (length != 0) {
            sha.update(data, offset, length);
        }
    }

    void updateByte(byte value) {
        ram[Session.BLOCK] = value;
        sha.update(ram, Session.BLOCK, (short) 1);
    }

    /** The last part and the digest, 32 bytes at out. */
    void finish(byte[] data, short offset, short length, byte[] out, short outOffset) {
        sha.doFinal(data, offset, length, out, outOffset);
    }

    // AES

    /** value = combine(key, value), 32 bytes each. */
    void combine(byte method, byte[] key, short keyOffset, byte[] value, short offset) {
        if (method == Contract.COMBINE_XOR) {
            xor(value, offset, key, keyOffset, Contract.KEY_LENGTH);
        } else {
            cbc(key, keyOffset, value, offset);
        }
    }

    /** value = CBC_key(value), 32 bytes, iv zero. */
    void cbc(byte[] key, short keyOffset, byte[] value, short offset) {
        short second = (short) (offset + BLOCK);
        aesKey.setKey(key, keyOffset);
        aes.init(aesKey, Cipher.MODE_ENCRYPT);
        aes.doFinal(value, offset, BLOCK, value, offset);
        xor(value, second, value, offset, BLOCK);
        aes.doFinal(value, second, BLOCK, value, second);
        aesKey.clearKey();
    }

    /** KW of RFC 3394, 2.2.1: 32 bytes at in become 40 at out; in and out do not overlap. */
    void wrap(byte[] key, short keyOffset, byte[] in, short inOffset, byte[] out, short outOffset) {
        aesKey.setKey(key, keyOffset);
        aes.init(aesKey, Cipher.MODE_ENCRYPT);
        Util.arrayFillNonAtomic(out, outOffset, HALF, KW_IV);
        Util.arrayCopyNonAtomic(in, inOffset, out, (short) (outOffset + HALF), Contract.KEY_LENGTH);
        byte count = 0;
        for (short j = 0; j < 6; j++) {
            short at = outOffset;
            for (short i = 0; i < HALVES; i++) {
                at += HALF;
                Util.arrayCopyNonAtomic(out, outOffset, ram, Session.BLOCK, HALF);
                Util.arrayCopyNonAtomic(out, at, ram, (short) (Session.BLOCK + HALF), HALF);
                aes.doFinal(ram, Session.BLOCK, BLOCK, ram, Session.BLOCK);
                count++;
                ram[(short) (Session.BLOCK + HALF - 1)] ^= count;
                Util.arrayCopyNonAtomic(ram, Session.BLOCK, out, outOffset, HALF);
                Util.arrayCopyNonAtomic(ram, (short) (Session.BLOCK + HALF), out, at, HALF);
            }
        }
        aesKey.clearKey();
    }

    /**
     * Inverse of {@link #wrap}, in place: 40 bytes at value, the key then stands at value + 8.
     * Compares the whole initial value. False if it does not open; value is then zeros.
     */
    boolean unwrap(byte[] key, short keyOffset, byte[] value, short offset) {
        aesKey.setKey(key, keyOffset);
        aes.init(aesKey, Cipher.MODE_DECRYPT);
        byte count = 24;
        for (short j = 0; j < 6; j++) {
            short at = (short) (offset + Contract.WRAPPED_KEY_LENGTH);
            for (short i = 0; i < HALVES; i++) {
                at -= HALF;
                Util.arrayCopyNonAtomic(value, offset, ram, Session.BLOCK, HALF);
                ram[(short) (Session.BLOCK + HALF - 1)] ^= count;
                count--;
                Util.arrayCopyNonAtomic(value, at, ram, (short) (Session.BLOCK + HALF), HALF);
                aes.doFinal(ram, Session.BLOCK, BLOCK, ram, Session.BLOCK);
                Util.arrayCopyNonAtomic(ram, Session.BLOCK, value, offset, HALF);
                Util.arrayCopyNonAtomic(ram, (short) (Session.BLOCK + HALF), value, at, HALF);
            }
        }
        aesKey.clearKey();
        byte difference = 0;
        for (short i = 0; i < HALF; i++) {
            difference |= (byte) (value[(short) (offset + i)] ^ KW_IV);
        }
        if (difference != 0) {
            Util.arrayFillNonAtomic(value, offset, Contract.WRAPPED_KEY_LENGTH, (byte) 0);
            return false;
        }
        return true;
    }

    /** a = a XOR b. */
    static void xor(byte[] a, short aOffset, byte[] b, short bOffset, short length) {
        for (short i = 0; i < length; i++) {
            a[(short) (aOffset + i)] ^= b[(short) (bOffset + i)];
        }
    }

    // The ephemeral pair of BEGIN PERSONALISATION

    /** A new pair; its point, 65 bytes, at out. */
    void generate(byte[] out, short offset) {
        P256.setCurve(publicKey);
        P256.setCurve(privateKey);
        pair.genKeyPair();
        point(out, offset);
    }

    /** The pair's point, 65 bytes, at out. */
    void point(byte[] out, short offset) {
        point(publicKey, out, offset);
    }

    private static void point(ECPublicKey key, byte[] out, short offset) {
        if (key.getW(out, offset) != Contract.POINT_LENGTH) {
            ISOException.throwIt(ISO7816.SW_UNKNOWN);
        }
    }

    /** Z, 32 bytes, at out. False where the platform refuses the point. */
    boolean agree(byte[] point, short offset, byte[] out, short outOffset) {
        try {
            agreement.init(privateKey);
            return agreement.generateSecret(point, offset, Contract.POINT_LENGTH, out, outOffset) == Contract.KEY_LENGTH;
        } catch (CryptoException e) {
            return false;
        }
    }

    // The origin key

    /** A new origin pair. */
    void generateOrigin() {
        P256.setCurve(originPublicKey);
        P256.setCurve(originPrivateKey);
        originPair.genKeyPair();
    }

    /** The origin pair's point, compressed to 33 bytes, at out. Needs KEY to VALUE of work memory. */
    void originPoint(byte[] out, short offset) {
        point(originPublicKey, ram, Session.KEY);
        byte last = ram[(short) (Session.KEY + Contract.POINT_LENGTH - 1)];
        out[offset] = (byte) (0x02 | (last & 0x01));
        Util.arrayCopyNonAtomic(ram, (short) (Session.KEY + 1), out, (short) (offset + 1), Contract.KEY_LENGTH);
    }

    /** Signs the card's point, 65 bytes, and the serial: r and s, 64 bytes, at out. Needs KEY to VALUE of work memory. */
    void proveOrigin(byte[] point, short pointOffset, byte[] serial, short serialOffset, byte[] out, short outOffset) {
        signature.init(originPrivateKey, Signature.MODE_SIGN);
        signature.update(Contract.LABEL_CARD_ORIGIN, (short) 0, (short) Contract.LABEL_CARD_ORIGIN.length);
        signature.update(point, pointOffset, Contract.POINT_LENGTH);
        // DER, 72 bytes at most: 30 length 02 length r 02 length s.
        signature.sign(serial, serialOffset, Contract.SERIAL_LENGTH, ram, Session.KEY);
        short s = integer((short) (Session.KEY + 2), out, outOffset);
        integer(s, out, (short) (outOffset + Contract.KEY_LENGTH));
    }

    /** The DER INTEGER at the offset of work memory in 32 bytes at out; returns the offset of what follows it. */
    private short integer(short at, byte[] out, short outOffset) {
        short length = ram[(short) (at + 1)];
        short end = (short) (at + 2 + length);
        if (length > Contract.KEY_LENGTH) {
            length = Contract.KEY_LENGTH;
        }
        Util.arrayFillNonAtomic(out, outOffset, Contract.KEY_LENGTH, (byte) 0);
        Util.arrayCopyNonAtomic(ram, (short) (end - length), out, (short) (outOffset + Contract.KEY_LENGTH - length), length);
        return end;
    }

    /** Until ISSUE has made it the card's: at selection and deselection, as the ephemeral key. */
    void forgetOrigin() {
        if (originPrivateKey.isInitialized()) {
            originPrivateKey.clearKey();
        }
    }

    /**
     * The private key object is persistent, as many cards have no transient one: so it is cleared after every
     * INSTALL, at deselection, and, for a card that lost its power, at the next selection.
     */
    void forgetPair() {
        if (privateKey.isInitialized()) {
            privateKey.clearKey();
        }
    }
}
