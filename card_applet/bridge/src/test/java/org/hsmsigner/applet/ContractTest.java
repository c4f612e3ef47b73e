package org.hsmsigner.applet;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.hsmsigner.sim.Card;
import org.hsmsigner.sim.Crypto;
import org.junit.jupiter.api.Test;

/** The applet's numbers against the tables of docs/understand/apdu.md. */
class ContractTest {
    private static final Path PAGE = Path.of(System.getProperty("pages"), "apdu.md");

    /** Rows of a marked table, without its head; every cell stripped. */
    private static List<List<String>> table(String name) throws IOException {
        return table(PAGE, name);
    }

    private static List<List<String>> table(Path page, String name) throws IOException {
        List<String> lines = Files.readAllLines(page);
        int at = lines.indexOf("<!-- table: " + name + " -->");
        assertTrue(at >= 0, "no table " + name);
        List<List<String>> rows = new ArrayList<>();
        for (int i = at + 3; i < lines.size() && lines.get(i).startsWith("|"); i++) {
            String[] cells = lines.get(i).substring(1).split("\\|", -1);
            rows.add(Arrays.stream(cells, 0, cells.length - 1).map(String::strip).toList());
        }
        assertTrue(!rows.isEmpty(), "empty table " + name);
        return rows;
    }

    /** Constant of the name, as an unsigned number of its width. */
    private static int constant(String name) {
        try {
            Field field = Contract.class.getDeclaredField(name);
            field.setAccessible(true);
            Object value = field.get(null);
            return value instanceof Byte ? (Byte) value & 0xFF : (Short) value & 0xFFFF;
        } catch (ReflectiveOperationException e) {
            throw new AssertionError("no constant " + name, e);
        }
    }

    private static String upper(String name) {
        return name.toUpperCase().replaceAll("[ -]", "_");
    }

    @Test
    void identity() throws IOException {
        Map<String, String> values = table("identity").stream().collect(Collectors.toMap(row -> row.get(0), row -> row.get(1)));
        assertEquals(values.get("aid"), Crypto.hex(Contract.AID));
        assertEquals(values.get("aid"), Crypto.hex(Card.APPLET_AID));
        assertEquals(values.get("version"), String.format("%04X", Contract.VERSION));
    }

    @Test
    void commands() throws IOException {
        List<String> expected = new ArrayList<>();
        List<String> actual = new ArrayList<>();
        byte[] all = Contract.COMMANDS;
        int row = 0;
        for (List<String> cells : table("commands")) {
            boolean chained = cells.get(5).equals("yes");
            // Of chained commands the lengths are checked by the commands themselves.
            expected.add(cells.get(0) + " " + String.join(" ", cells.subList(1, 6))
                    + (chained ? "" : " " + cells.get(6) + " " + cells.get(7)) + " " + cells.get(8));
            byte flags = all[row + Contract.COL_FLAGS];
            String states = ((flags & Contract.IN_BLANK) != 0 ? "01 " : "") + ((flags & Contract.IN_ACTIVE) != 0 ? "03 " : "")
                    + ((flags & Contract.IN_BLOCKED) != 0 ? "04" : "");
            boolean isChained = (flags & Contract.CHAINED) != 0;
            actual.add(cells.get(0) + String.format(" %02X %02X %02X %02X ", all[row], all[row + 1], all[row + 2], all[row + 3])
                    + (isChained ? "yes" : "no " + all[row + Contract.COL_NC_MIN] + " " + (all[row + Contract.COL_NC_MAX] & 0xFF))
                    + " " + states.strip());
            assertEquals(constant("INS_" + upper(cells.get(0))), all[row + Contract.COL_INS] & 0xFF);
            row += Contract.COLUMNS;
        }
        assertEquals(String.join("\n", expected), String.join("\n", actual));
        assertEquals(all.length, row);
    }

    @Test
    void algorithms() throws IOException {
        StringBuilder expected = new StringBuilder();
        for (List<String> row : table("algorithms")) {
            int length = row.get(3).contains("02") ? Integer.parseInt(row.get(2)) : 0;
            expected.append(row.get(0)).append(String.format("%02X", length));
        }
        assertEquals(expected.toString(), Crypto.hex(Contract.ALGORITHMS));
    }

    @Test
    void labels() throws Exception {
        for (List<String> row : table("labels")) {
            byte[] label = (byte[]) Contract.class.getDeclaredField("LABEL_" + upper(row.get(0))).get(null);
            assertEquals(row.get(1), new String(label, StandardCharsets.US_ASCII));
        }
    }

    @Test
    void codes() throws IOException {
        for (String[] table : new String[][] {{"states", "STATE_"}, {"schemes", "SCHEME_"}, {"combines", "COMBINE_"}, {"modes", "MODE_"}}) {
            for (List<String> row : table(table[0])) {
                assertEquals(Integer.parseInt(row.get(0), 16), constant(table[1] + upper(row.get(1))), row.toString());
            }
        }
        for (String[] table : new String[][] {{"pin-policies", "POLICY_"}, {"pin-checks", "CHECK_"}}) {
            for (List<String> row : table(table[0])) {
                if (!row.get(1).equals("none")) {
                    assertEquals(Integer.parseInt(row.get(0), 16), constant(table[1] + upper(row.get(1))), row.toString());
                }
            }
        }
    }

    @Test
    void tags() throws IOException {
        Map<String, String> names = Map.of("file control information", "FCI", "PIN tries left", "PIN_LEFT", "PUK tries left", "PUK_LEFT",
                "card point", "POINT", "token point", "POINT", "wrapped KCAR", "WRAPPED_KCAR", "wrapped KEK", "WRAPPED_KEK");
        for (String table : new String[] {"status-tags", "template-tags", "install-tags"}) {
            for (List<String> row : table(table)) {
                String name = names.getOrDefault(row.get(1), upper(row.get(1)));
                assertEquals(Integer.parseInt(row.get(0), 16), constant("TAG_" + name), row.toString());
            }
        }
    }

    @Test
    void features() throws IOException {
        int all = 0;
        for (List<String> row : table("features")) {
            all |= 1 << Integer.parseInt(row.get(0));
            if (row.get(1).equals("origin")) {
                assertEquals(1 << Integer.parseInt(row.get(0)), Contract.FEATURE_ORIGIN);
            }
        }
        assertEquals(all, Contract.FEATURES | Contract.FEATURE_ORIGIN);
    }

    @Test
    void limits() throws IOException {
        Map<String, String> names = Map.of("credential-id", "CREDENTIAL_ID_LENGTH", "serial", "SERIAL_LENGTH", "nonce", "NONCE_LENGTH",
                "salt", "SALT_LENGTH", "key", "KEY_LENGTH", "signature", "SIGNATURE_LENGTH", "wrapped-key", "WRAPPED_KEY_LENGTH",
                "point", "POINT_LENGTH", "compressed-point", "COMPRESSED_POINT_LENGTH", "origin-certificate", "ORIGIN_CERTIFICATE_LENGTH");
        // The others follow from widths: u16 counts, the platform's 15 bits, the table of commands, n of AUTHORISE.
        List<String> elsewhere = List.of("digests-max", "install-max", "extended-data-max", "answer-max");
        for (List<String> row : table("limits")) {
            if (!elsewhere.contains(row.get(0))) {
                int value = constant(names.getOrDefault(row.get(0), upper(row.get(0))));
                assertEquals(Integer.parseInt(row.get(1)), value, row.toString());
            }
        }
    }

    @Test
    void statusWords() throws IOException {
        Map<String, String> names = Map.of("63Cx", "WRONG_SECRET", "61xx", "MORE_DATA", "6884", "NO_CHAINING", "6985", "CONDITIONS",
                "6A86", "WRONG_P1P2", "6A88", "NO_REFERENCE_DATA");
        for (List<String> row : table("status-words")) {
            if (!row.get(0).equals("6Cxx")) {
                int word = Integer.parseInt(row.get(0).replace('x', '0'), 16);
                assertEquals(word, constant("SW_" + names.getOrDefault(row.get(0), upper(row.get(1)))), row.toString());
            }
        }
    }

    /** docs/understand/applet.md, "Memory". */
    @Test
    void memory() throws Exception {
        int constants = 0;
        for (Class<?> type : List.of(Contract.class, P256.class)) {
            for (Field field : type.getDeclaredFields()) {
                if (field.getType() == byte[].class) {
                    field.setAccessible(true);
                    constants += ((byte[]) field.get(null)).length;
                }
            }
        }
        int aesKey = 32;
        int counters = 2 * Session.NUM_LENGTH;
        Map<String, Integer> expected = Map.of("command data and answer", (int) Session.IO_LENGTH, "state, H, KEK and work",
                (int) Session.RAM_LENGTH, "four counters", counters, "AES key", aesKey, "all transient",
                Session.IO_LENGTH + Session.RAM_LENGTH + counters + aesKey, "persistent memory of the contract", (int) Store.LENGTH,
                "constants: labels, tables, curve", constants);
        Map<String, Integer> stated = table(PAGE.resolveSibling("applet.md"), "memory").stream()
                .collect(Collectors.toMap(row -> row.get(0), row -> Integer.parseInt(row.get(2))));
        assertEquals(expected, stated);
    }
}
