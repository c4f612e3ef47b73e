package org.hsmsigner.sim;

import static org.hsmsigner.sim.Crypto.ascii;
import static org.hsmsigner.sim.Crypto.bytes;
import static org.hsmsigner.sim.Crypto.cat;
import static org.hsmsigner.sim.Crypto.hex;
import static org.hsmsigner.sim.Crypto.sha256;
import static org.hsmsigner.sim.Crypto.tlv;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;

/** Commands of docs/understand/apdu.md sent to a card, and what a host computes beside it. */
public final class Host {
    public static final int BASIC = 1;
    public static final int PIN = 2;
    public static final int ROLLING = 3;
    public static final int XOR = 1;
    public static final int CBC = 2;
    public static final int ALWAYS = 1;
    public static final int SESSION = 2;
    public static final int ON_CARD = 1;
    public static final int ON_SERVER = 2;
    public static final int ECDSA_SHA256 = 0x0201;

    /** RFC 5903, 8.1, the initiator. */
    public static final byte[] TOKEN_PRIVATE = hex("C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433");
    public static final byte[] TOKEN_POINT = hex("04"
            + "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180"
            + "5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3");

    /** What a card is enrolled with; scheme basic has zeros where it has nothing. */
    public record Profile(int scheme, int combine, int policy, int check, int pinTries, int pukTries, String pin, String puk) {
        public static final Profile DEFAULT = new Profile(ROLLING, CBC, ALWAYS, ON_CARD, 3, 3, "194738", "PUK-7f3Kq9Zt1XbV");
        public static final Profile OF_BASIC = new Profile(BASIC, 0, 0, 0, 0, 0, null, null);

        public Profile with(int newScheme, int newCombine, int newPolicy, int newCheck) {
            return new Profile(newScheme, newCombine, newPolicy, newCheck, pinTries, pukTries, pin, puk);
        }

        public Profile withTries(int newPinTries, int newPukTries) {
            return new Profile(scheme, combine, policy, check, newPinTries, newPukTries, pin, puk);
        }

        public Profile withPuk(String newPuk) {
            return new Profile(scheme, combine, policy, check, pinTries, pukTries, pin, newPuk);
        }

        public boolean isBasic() {
            return scheme == BASIC;
        }
    }

    /** Status word and data. */
    public record Answer(int sw, byte[] data) {
    }

    public final Card card;
    public final byte[] credential = hex("C0C1C2C3C4C5C6C7C8C9CACBCCCDCECF");
    public final byte[] kcar = sha256(ascii("a KCAR"));
    public final byte[] kek = sha256(ascii("a KEK"));

    public Host(Card card) {
        this.card = card;
    }

    /** A blank card, selected. */
    public static Host fresh() {
        Host host = new Host(new Card());
        host.select();
        return host;
    }

    /** A card with this profile, selected. */
    public static Host enrolled(Profile profile) {
        Host host = fresh();
        host.enrol(profile);
        return host;
    }

    public Answer raw(byte[] apdu) {
        byte[] answer = card.transmit(apdu);
        int sw = (answer[answer.length - 2] & 0xFF) << 8 | answer[answer.length - 1] & 0xFF;
        return new Answer(sw, Arrays.copyOf(answer, answer.length - 2));
    }

    public int sw(String apdu) {
        return raw(hex(apdu)).sw;
    }

    public int sw(String header, byte[] data) {
        return raw(command(header, data)).sw;
    }

    /** Short APDU without Le. */
    public static byte[] command(String header, byte[] data) {
        return data.length == 0 ? hex(header) : cat(hex(header), bytes(data.length), data);
    }

    /** Extended APDU without Le. */
    public static byte[] extended(String header, byte[] data) {
        return cat(hex(header), bytes(0, data.length >> 8, data.length), data);
    }

    public byte[] data(byte[] apdu) {
        Answer answer = raw(apdu);
        assertEquals(0x9000, answer.sw, () -> Integer.toHexString(answer.sw));
        return answer.data;
    }

    public void ok(String header, byte[] data) {
        assertArrayEquals(new byte[0], data(command(header, data)));
    }

    public byte[] select() {
        return data(cat(hex("00A4040009"), Card.APPLET_AID, bytes(0)));
    }

    public Map<Integer, byte[]> status() {
        return parse(data(hex("80CA000000")));
    }

    public static Map<Integer, byte[]> parse(byte[] tlvs) {
        Map<Integer, byte[]> values = new HashMap<>();
        for (int at = 0; at < tlvs.length; at += 2 + tlvs[at + 1]) {
            values.put(tlvs[at] & 0xFF, Arrays.copyOfRange(tlvs, at + 2, at + 2 + tlvs[at + 1]));
        }
        return values;
    }

    /** A one-byte value of GET STATUS, -1: not there. */
    public int status(int tag) {
        byte[] value = status().get(tag);
        return value == null ? -1 : value[0];
    }

    public byte[] begin() {
        return Arrays.copyOfRange(data(hex("8060000000")), 2, 67);
    }

    /** Data of INSTALL for the card's point. */
    public byte[] installData(Profile profile, byte[] cardPoint) {
        byte[] parameters = cat(credential,
                bytes(profile.scheme, profile.combine, profile.policy, profile.check, profile.pinTries, profile.pukTries));
        byte[] z = Crypto.ecdh(TOKEN_PRIVATE, cardPoint);
        byte[] data = cat(tlv(0x84, credential), tlv(0x82, bytes(profile.scheme)), tlv(0x83, bytes(profile.combine)),
                tlv(0x90, TOKEN_POINT), tlv(0x92, Crypto.wrap(personal(z, 2, parameters, cardPoint), kek)));
        if (!profile.isBasic()) {
            data = cat(data, tlv(0x89, bytes(profile.policy)), tlv(0x8A, bytes(profile.check)),
                    tlv(0x91, Crypto.wrap(personal(z, 1, parameters, cardPoint), kcar)),
                    tlv(0x93, ascii(profile.pin)), tlv(0x95, bytes(profile.pinTries, profile.pukTries)));
            if (profile.puk != null) {
                data = cat(data, tlv(0x94, ascii(profile.puk)));
            }
        }
        return data;
    }

    private static byte[] personal(byte[] z, int r, byte[] parameters, byte[] cardPoint) {
        return Crypto.cbc(z, sha256(ascii("hsm-signer/1/personalise"), bytes(r), parameters, cardPoint, TOKEN_POINT));
    }

    /** BEGIN ISSUE and ISSUE, with a signature that no issuer made; the origin point, 33 bytes. */
    public byte[] issue() {
        byte[] point = parse(data(hex("8068000000"))).get(0x8D);
        ok("806A0000", new byte[64]);
        return point;
    }

    public void enrol(Profile profile) {
        ok("80620000", installData(profile, begin()));
    }

    public void hash(byte[] message) {
        ok("002A9080", message);
    }

    public void verify(String pin) {
        ok("00200081", ascii(pin));
    }

    public static byte[] authorisation(int algorithm, byte[]... values) {
        return cat(hex("80640000"), bytes(3 + 32 * values.length), bytes(algorithm >> 8, algorithm, values.length),
                cat(values), bytes(0));
    }

    /** The keys in the answer of AUTHORISE, opened under T_i. */
    public byte[][] open(Profile profile, int algorithm, int mode, byte[] h, byte[] answer, byte[]... values) {
        int count = Math.max(values.length, 1);
        assertEquals(16 + 40 * count, answer.length);
        byte[] r = Arrays.copyOf(answer, 16);
        byte[] d = sha256(ascii("hsm-signer/1/authorise"), bytes(profile.scheme, profile.combine, algorithm >> 8, algorithm,
                mode, profile.policy), credential, r, bytes(values.length), cat(values), h);
        byte[][] opened = new byte[count][];
        for (int i = 1; i <= count; i++) {
            byte[] t = sha256(ascii("hsm-signer/1/position"), bytes(i), d);
            if (!profile.isBasic()) {
                t = combine(profile, kcar, t);
            }
            opened[i - 1] = Crypto.unwrap(t, Arrays.copyOfRange(answer, 16 + 40 * (i - 1), 16 + 40 * i));
        }
        return opened;
    }

    public byte[] expected(Profile profile, byte[] value) {
        return profile.scheme == ROLLING ? combine(profile, kek, value) : kek;
    }

    public static byte[] combine(Profile profile, byte[] key, byte[] value) {
        return profile.combine == XOR ? Crypto.xor(key, value) : Crypto.cbc(key, value);
    }

    /** A whole authorisation of a message; checks every Q. */
    public void authorise(Profile profile, byte[] message, byte[]... values) {
        hash(message);
        if (!profile.isBasic()) {
            verify(profile.pin);
        }
        byte[] answer = data(authorisation(ECDSA_SHA256, values));
        byte[][] opened = open(profile, ECDSA_SHA256, 1, sha256(message), answer, values);
        for (int i = 0; i < opened.length; i++) {
            assertArrayEquals(expected(profile, values.length == 0 ? null : values[i]), opened[i]);
        }
    }

    public static byte[] value(int number) {
        return sha256(bytes(number));
    }
}
