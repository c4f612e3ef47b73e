package org.hsmsigner.applet;

import javacard.security.ECKey;

/**
 * The curve P-256 (FIPS 186-4, D.1.2.3), and whether a point lies on it.
 *
 * <p>Platforms differ in whether ECDH checks the other side's point; the contract does not. So the equation is
 * worked out here, y^2 = x^3 - 3x + b mod p, on 32-byte big endian numbers with 16-bit arithmetic. Points are
 * public: nothing here needs constant time.
 */
final class P256 {
    static final byte[] P = {
        (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, 0x00, 0x00, 0x00, 0x01,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF,
        (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF,
    };
    static final byte[] A = {
        (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, 0x00, 0x00, 0x00, 0x01,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF,
        (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFC,
    };
    static final byte[] B = {
        0x5A, (byte) 0xC6, 0x35, (byte) 0xD8, (byte) 0xAA, 0x3A, (byte) 0x93, (byte) 0xE7,
        (byte) 0xB3, (byte) 0xEB, (byte) 0xBD, 0x55, 0x76, (byte) 0x98, (byte) 0x86, (byte) 0xBC,
        0x65, 0x1D, 0x06, (byte) 0xB0, (byte) 0xCC, 0x53, (byte) 0xB0, (byte) 0xF6,
        0x3B, (byte) 0xCE, 0x3C, 0x3E, 0x27, (byte) 0xD2, 0x60, 0x4B,
    };
    static final byte[] G = {
        0x04,
        0x6B, 0x17, (byte) 0xD1, (byte) 0xF2, (byte) 0xE1, 0x2C, 0x42, 0x47,
        (byte) 0xF8, (byte) 0xBC, (byte) 0xE6, (byte) 0xE5, 0x63, (byte) 0xA4, 0x40, (byte) 0xF2,
        0x77, 0x03, 0x7D, (byte) 0x81, 0x2D, (byte) 0xEB, 0x33, (byte) 0xA0,
        (byte) 0xF4, (byte) 0xA1, 0x39, 0x45, (byte) 0xD8, (byte) 0x98, (byte) 0xC2, (byte) 0x96,
        0x4F, (byte) 0xE3, 0x42, (byte) 0xE2, (byte) 0xFE, 0x1A, 0x7F, (byte) 0x9B,
        (byte) 0x8E, (byte) 0xE7, (byte) 0xEB, 0x4A, 0x7C, 0x0F, (byte) 0x9E, 0x16,
        0x2B, (byte) 0xCE, 0x33, 0x57, 0x6B, 0x31, 0x5E, (byte) 0xCE,
        (byte) 0xCB, (byte) 0xB6, 0x40, 0x68, 0x37, (byte) 0xBF, 0x51, (byte) 0xF5,
    };
    static final byte[] N = {
        (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, 0x00, 0x00, 0x00, 0x00,
        (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF, (byte) 0xFF,
        (byte) 0xBC, (byte) 0xE6, (byte) 0xFA, (byte) 0xAD, (byte) 0xA7, 0x17, (byte) 0x9E, (byte) 0x84,
        (byte) 0xF3, (byte) 0xB9, (byte) 0xCA, (byte) 0xC2, (byte) 0xFC, 0x63, 0x25, 0x51,
    };
    static final short COFACTOR = 1;

    private static final short SIZE = 32;

    private P256() {
    }

    /** Gives a key its curve; cards have no default one, and clearKey may take it away. */
    static void setCurve(ECKey key) {
        key.setFieldFP(P, (short) 0, SIZE);
        key.setA(A, (short) 0, SIZE);
        key.setB(B, (short) 0, SIZE);
        key.setG(G, (short) 0, Contract.POINT_LENGTH);
        key.setR(N, (short) 0, SIZE);
        key.setK(COFACTOR);
    }

    /**
     * Whether 65 bytes are 04 || x || y with x and y below p and on the curve.
     *
     * @param work two numbers of 32 bytes, at s and at t, overwritten
     */
    static boolean isOnCurve(byte[] point, short offset, byte[] work, short s, short t) {
        short x = (short) (offset + 1);
        short y = (short) (x + SIZE);
        if (point[offset] != 0x04 || !isBelowP(point, x) || !isBelowP(point, y)) {
            return false;
        }
        multiply(point, x, point, x, work, s);
        multiply(work, s, point, x, work, t);
        add(work, t, B, (short) 0);
        subtract(work, t, point, x);
        subtract(work, t, point, x);
        subtract(work, t, point, x);
        multiply(point, y, point, y, work, s);
        subtract(work, t, work, s);
        // The difference is any representative below 2^256 < 2p: 0 or p.
        return isZero(work, t) || isP(work, t);
    }

    private static boolean isBelowP(byte[] a, short offset) {
        for (short j = 0; j < SIZE; j++) {
            short digit = (short) (a[(short) (offset + j)] & 0xFF);
            short limit = (short) (P[j] & 0xFF);
            if (digit != limit) {
                return digit < limit;
            }
        }
        return false;
    }

    private static boolean isZero(byte[] a, short offset) {
        for (short j = 0; j < SIZE; j++) {
            if (a[(short) (offset + j)] != 0) {
                return false;
            }
        }
        return true;
    }

    private static boolean isP(byte[] a, short offset) {
        for (short j = 0; j < SIZE; j++) {
            if (a[(short) (offset + j)] != P[j]) {
                return false;
            }
        }
        return true;
    }

    /** r = a b mod p, not fully reduced: below 2^256. r is neither a nor b. */
    private static void multiply(byte[] a, short aOffset, byte[] b, short bOffset, byte[] r, short rOffset) {
        for (short j = 0; j < SIZE; j++) {
            r[(short) (rOffset + j)] = 0;
        }
        for (short i = 0; i < SIZE; i++) {
            // r = 256 r + a b_i; each sum is at most 255 * 255 + 255 + 255 = 65535, 16 bits without sign.
            short digit = (short) (b[(short) (bOffset + i)] & 0xFF);
            short carry = 0;
            short below = 0;
            for (short j = (short) (SIZE - 1); j >= 0; j--) {
                short at = (short) (rOffset + j);
                short old = (short) (r[at] & 0xFF);
                short factor = (short) (a[(short) (aOffset + j)] & 0xFF);
                short sum = (short) (factor * digit + below + carry);
                r[at] = (byte) sum;
                carry = (short) ((sum >> 8) & 0xFF);
                below = old;
            }
            fold(r, rOffset, (short) (below + carry));
        }
    }

    private static void add(byte[] r, short rOffset, byte[] a, short aOffset) {
        short carry = 0;
        for (short j = (short) (SIZE - 1); j >= 0; j--) {
            short at = (short) (rOffset + j);
            short sum = (short) ((r[at] & 0xFF) + (a[(short) (aOffset + j)] & 0xFF) + carry);
            r[at] = (byte) sum;
            carry = (short) (sum >> 8);
        }
        fold(r, rOffset, carry);
    }

    private static void subtract(byte[] r, short rOffset, byte[] a, short aOffset) {
        short carry = 0;
        for (short j = (short) (SIZE - 1); j >= 0; j--) {
            short at = (short) (rOffset + j);
            short sum = (short) ((r[at] & 0xFF) - (a[(short) (aOffset + j)] & 0xFF) + carry);
            r[at] = (byte) sum;
            carry = (short) (sum >> 8);
        }
        fold(r, rOffset, carry);
    }

    /** r = r + top 2^256, with 2^256 = 2^224 - 2^192 - 2^96 + 1 mod p; top may be negative. */
    private static void fold(byte[] r, short rOffset, short top) {
        while (top != 0) {
            short carry = 0;
            for (short j = (short) (SIZE - 1); j >= 0; j--) {
                short at = (short) (rOffset + j);
                short sum = (short) ((r[at] & 0xFF) + carry);
                if (j == 31 || j == 3) {
                    sum += top;
                } else if (j == 19 || j == 7) {
                    sum -= top;
                }
                r[at] = (byte) sum;
                carry = (short) (sum >> 8);
            }
            top = carry;
        }
    }
}
