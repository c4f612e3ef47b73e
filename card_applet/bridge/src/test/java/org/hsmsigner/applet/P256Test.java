package org.hsmsigner.applet;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.math.BigInteger;
import java.security.KeyPairGenerator;
import java.security.interfaces.ECPublicKey;
import java.security.spec.ECFieldFp;
import java.security.spec.ECGenParameterSpec;
import java.security.spec.ECParameterSpec;
import java.util.Random;
import org.hsmsigner.sim.Crypto;
import org.junit.jupiter.api.Test;

/** The curve equation in 16 bits against the JDK's numbers. */
class P256Test {
    private static final ECParameterSpec CURVE = Crypto.p256();
    private static final BigInteger P = ((ECFieldFp) CURVE.getCurve().getField()).getP();
    private static final BigInteger TOP = BigInteger.ONE.shiftLeft(256);

    private static byte[] number(BigInteger value) {
        byte[] bytes = new byte[32];
        byte[] all = value.toByteArray();
        int from = Math.max(0, all.length - 32);
        System.arraycopy(all, from, bytes, 32 - (all.length - from), all.length - from);
        return bytes;
    }

    private static boolean card(BigInteger x, BigInteger y) {
        byte[] point = Crypto.cat(Crypto.bytes(0xAA, 0x04), number(x), number(y));
        return P256.isOnCurve(point, (short) 1, new byte[100], (short) 3, (short) 60);
    }

    private static boolean host(BigInteger x, BigInteger y) {
        BigInteger right = x.pow(3).add(CURVE.getCurve().getA().multiply(x)).add(CURVE.getCurve().getB());
        return x.compareTo(P) < 0 && y.compareTo(P) < 0 && y.pow(2).subtract(right).mod(P).signum() == 0;
    }

    @Test
    void parametersAreTheCurves() {
        assertEquals(P, new BigInteger(1, P256.P));
        assertEquals(CURVE.getCurve().getA(), new BigInteger(1, P256.A));
        assertEquals(CURVE.getCurve().getB(), new BigInteger(1, P256.B));
        assertEquals(CURVE.getOrder(), new BigInteger(1, P256.N));
        assertEquals(CURVE.getCofactor(), P256.COFACTOR);
        assertEquals("04" + Crypto.hex(number(CURVE.getGenerator().getAffineX())) + Crypto.hex(number(CURVE.getGenerator().getAffineY())),
                Crypto.hex(P256.G));
    }

    @Test
    void pointsOfTheCurveAreAccepted() throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance("EC");
        generator.initialize(new ECGenParameterSpec("secp256r1"));
        for (int i = 0; i < 300; i++) {
            ECPublicKey key = (ECPublicKey) generator.generateKeyPair().getPublic();
            BigInteger x = key.getW().getAffineX();
            BigInteger y = key.getW().getAffineY();
            assertTrue(card(x, y));
            assertTrue(card(x, P.subtract(y)));
            assertFalse(card(x, y.xor(BigInteger.ONE.shiftLeft(i % 256))));
            assertFalse(card(x.xor(BigInteger.ONE.shiftLeft(i % 256)), y));
            assertFalse(card(y, x));
        }
    }

    @Test
    void extremeNumbersAgreeWithTheHost() {
        BigInteger[] extremes = {BigInteger.ZERO, BigInteger.ONE, BigInteger.TWO, P, P.subtract(BigInteger.ONE), P.add(BigInteger.ONE),
            TOP.subtract(BigInteger.ONE), TOP.subtract(P), P.shiftRight(1), BigInteger.ONE.shiftLeft(255), BigInteger.ONE.shiftLeft(224),
            BigInteger.ONE.shiftLeft(192), BigInteger.ONE.shiftLeft(96), new BigInteger("FF".repeat(31), 16)};
        for (BigInteger x : extremes) {
            for (BigInteger y : extremes) {
                assertEquals(host(x, y), card(x, y), x + " " + y);
            }
            // With its own root, if it has one.
            BigInteger right = x.pow(3).add(CURVE.getCurve().getA().multiply(x)).add(CURVE.getCurve().getB()).mod(P);
            BigInteger y = right.modPow(P.add(BigInteger.ONE).shiftRight(2), P);
            assertEquals(host(x, y), card(x, y), x.toString(16));
        }
    }

    /** x + p and y + p stand for the same residues where they fit into 32 bytes; they are not points. */
    @Test
    void coordinatesFromPOnAreRefused() {
        int found = 0;
        for (int i = 0; found < 20; i++) {
            BigInteger x = BigInteger.valueOf(i);
            BigInteger right = x.pow(3).add(CURVE.getCurve().getA().multiply(x)).add(CURVE.getCurve().getB()).mod(P);
            BigInteger y = right.modPow(P.add(BigInteger.ONE).shiftRight(2), P);
            if (host(x, y)) {
                found++;
                assertTrue(card(x, y));
                assertFalse(card(x.add(P), y));
            }
        }
    }

    @Test
    void manyRandomPairsAgree() {
        Random random = new Random(2);
        for (int i = 0; i < 2000; i++) {
            BigInteger x = new BigInteger(256, random);
            BigInteger right = x.pow(3).add(CURVE.getCurve().getA().multiply(x)).add(CURVE.getCurve().getB()).mod(P);
            BigInteger y = right.modPow(P.add(BigInteger.ONE).shiftRight(2), P);
            assertEquals(host(x, y), card(x, y));
        }
    }

    @Test
    void onlyUncompressedPoints() {
        byte[] g = P256.G.clone();
        assertTrue(P256.isOnCurve(g, (short) 0, new byte[64], (short) 0, (short) 32));
        for (int form : new int[] {0, 2, 3, 5, 6, 7, 0x84}) {
            g[0] = (byte) form;
            assertFalse(P256.isOnCurve(g, (short) 0, new byte[64], (short) 0, (short) 32));
        }
    }
}
