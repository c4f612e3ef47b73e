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
        if (publicKey.getW(out, offset) != Contract.POINT_LENGTH) {
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
