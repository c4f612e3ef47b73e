package org.hsmsigner.applet;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.licel.jcardsim.base.SimulatorRuntime;
import com.licel.jcardsim.smartcardio.CardSimulator;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Random;
import javax.crypto.Cipher;
import javax.crypto.spec.SecretKeySpec;
import org.hsmsigner.sim.Crypto;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** KW and CBC over single blocks, against NIST's vectors and the JDK. */
class KeysTest {
    private static Keys keys;

    @BeforeAll
    static void card() {
        // Makes a runtime current for this thread, in which card objects can be made.
        new CardSimulator(new SimulatorRuntime()).resetRuntime();
        keys = new Keys(new Session());
    }

    private interface Check {
        void run(Map<String, String> fields);
    }

    private static int records(String file, Check check) throws IOException {
        int count = 0;
        Map<String, String> fields = new HashMap<>();
        for (String line : Files.readAllLines(Path.of(System.getProperty("vectors"), "nist", file))) {
            if (line.startsWith("COUNT")) {
                fields.clear();
                fields.put("COUNT", line);
            } else if (line.contains(" = ") && !line.startsWith("[")) {
                fields.put(line.split(" = ")[0].strip(), line.split(" = ")[1].strip());
            } else if (line.strip().equals("FAIL")) {
                fields.put("FAIL", "");
            } else if (line.isBlank() && fields.containsKey("COUNT")) {
                check.run(fields);
                fields.clear();
                count++;
            }
        }
        if (fields.containsKey("COUNT")) {
            check.run(fields);
            count++;
        }
        return count;
    }

    @Test
    void wrapsAsNist() throws IOException {
        assertTrue(records("KW_AE_256.txt", fields -> {
            byte[] out = new byte[50];
            keys.wrap(Crypto.hex(fields.get("K")), (short) 0, Crypto.hex(fields.get("P")), (short) 0, out, (short) 7);
            assertEquals("00".repeat(7) + fields.get("C").toUpperCase() + "000000", Crypto.hex(out), fields.get("COUNT"));
        }) >= 10);
    }

    @Test
    void unwrapsAsNist() throws IOException {
        int[] failing = {0};
        assertTrue(records("KW_AD_256.txt", fields -> {
            byte[] value = Crypto.cat(Crypto.bytes(1, 2), Crypto.hex(fields.get("C")));
            boolean fails = fields.containsKey("FAIL");
            assertEquals(!fails, keys.unwrap(Crypto.hex(fields.get("K")), (short) 0, value, (short) 2), fields.get("COUNT"));
            String expected = fails ? "0102" + "00".repeat(40) : "0102" + "A6".repeat(8) + fields.get("P").toUpperCase();
            assertEquals(expected, Crypto.hex(value), fields.get("COUNT"));
            failing[0] += fails ? 1 : 0;
        }) >= 10);
        assertTrue(failing[0] > 0, "no vector that fails");
    }

    @Test
    void combinesAsTheHost() {
        Random random = new Random(3);
        for (int i = 0; i < 100; i++) {
            byte[] key = new byte[32];
            byte[] value = new byte[32];
            random.nextBytes(key);
            random.nextBytes(value);
            byte[] cbc = Crypto.cat(new byte[5], value);
            keys.combine(Contract.COMBINE_CBC, Crypto.cat(new byte[3], key), (short) 3, cbc, (short) 5);
            assertArrayEquals(Crypto.cat(new byte[5], Crypto.cbc(key, value)), cbc);
            byte[] xor = value.clone();
            keys.combine(Contract.COMBINE_XOR, key, (short) 0, xor, (short) 0);
            assertArrayEquals(Crypto.xor(key, value), xor);
        }
    }

    /** A wrapped key whose initial value is wrong in one byte only: every byte is compared. */
    @Test
    void everyByteOfTheInitialValueCounts() throws GeneralSecurityException {
        byte[] key = new byte[32];
        for (int i = -1; i < 8; i++) {
            byte[] value = new byte[40];
            Arrays.fill(value, 0, 8, (byte) 0xA6);
            if (i >= 0) {
                value[i] ^= 1;
            }
            wrapWithAnyInitialValue(key, value);
            assertEquals(i < 0, keys.unwrap(key, (short) 0, value, (short) 0), "byte " + i);
        }
    }

    private static void wrapWithAnyInitialValue(byte[] key, byte[] value) throws GeneralSecurityException {
        Cipher aes = Cipher.getInstance("AES/ECB/NoPadding");
        aes.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(key, "AES"));
        for (int t = 1; t <= 24; t++) {
            int at = 8 + 8 * ((t - 1) % 4);
            byte[] block = aes.doFinal(Crypto.cat(Arrays.copyOf(value, 8), Arrays.copyOfRange(value, at, at + 8)));
            block[7] ^= (byte) t;
            System.arraycopy(block, 0, value, 0, 8);
            System.arraycopy(block, 8, value, at, 8);
        }
    }
}
