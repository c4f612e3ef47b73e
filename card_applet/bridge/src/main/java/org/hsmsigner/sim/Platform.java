package org.hsmsigner.sim;

import com.licel.jcardsim.base.ApduCase;
import com.licel.jcardsim.base.SimulatorRuntime;
import com.licel.jcardsim.crypto.ByteContainer;
import com.licel.jcardsim.crypto.ECPrivateKeyImpl;
import com.licel.jcardsim.crypto.KeyPairImpl;
import java.lang.reflect.Field;
import java.security.SecureRandom;
import java.util.Arrays;
import javacard.framework.AID;
import javacard.framework.Applet;
import javacard.security.KeyPair;

/**
 * jCardSim's runtime, with what it does otherwise than a card of docs/understand/apdu.md: selection, and two defects of its
 * elliptic curve keys. The applet is untouched by all of it.
 */
public class Platform extends SimulatorRuntime {
    private final byte[] select;
    private final AID aid;

    /** A platform for one applet with this instance AID. */
    public Platform(byte[] aid) {
        this.aid = new AID(aid, (short) 0, (byte) aid.length);
        this.select = new byte[5 + aid.length];
        this.select[1] = (byte) 0xA4;
        this.select[2] = 0x04;
        this.select[4] = (byte) aid.length;
        System.arraycopy(aid, 0, this.select, 5, aid.length);
    }

    /** Selects by 00 A4 04 00 and the whole AID only; jCardSim takes any part of it, other P2 and other channels. */
    @Override
    protected AID findAppletForSelectApdu(byte[] command, ApduCase apduCase) {
        boolean matches = command.length >= select.length
                && Arrays.equals(select, 0, select.length, command, 0, select.length);
        return matches ? lookupAID(select, (short) 5, select[4]) : null;
    }

    final boolean hasSelection() {
        return getAID() != null;
    }

    /** The applet instance, for tests that look into its memory. */
    final Applet applet() {
        return getApplet(aid);
    }

    /** jCardSim never seeds the generator of a key pair, so that every card would make the same keys. */
    final void seedKeyPair() {
        for (String name : new String[] {"pair", "originPair"}) {
            KeyPair pair = (KeyPair) read(keys(), name);
            KeyPairImpl implementation = (KeyPairImpl) read(pair, "impl");
            ((SecureRandom) read(implementation, "rnd")).setSeed(new SecureRandom().generateSeed(32));
        }
    }

    /**
     * jCardSim keeps a number in the array of the number before it and then reads all of that array: a private
     * key with a leading zero byte, one in 256, comes out wrong if another was there before. A cleared key gets
     * a new container, a shorter one a container of its length.
     */
    final void mendPrivateKey() {
        for (String name : new String[] {"privateKey", "originPrivateKey"}) {
            ECPrivateKeyImpl key = (ECPrivateKeyImpl) read(keys(), name);
            ByteContainer scalar = (ByteContainer) read(key, "s");
            if (!scalar.isInitialized()) {
                write(key, "s", new ByteContainer());
                continue;
            }
            byte[] data = (byte[]) read(scalar, "data");
            short length = (short) read(scalar, "length");
            if (length < data.length) {
                write(key, "s", new ByteContainer(data, (short) 0, length));
            }
        }
    }

    private Object keys() {
        return read(applet(), "keys");
    }

    /** The value of a private field. */
    static Object read(Object object, String name) {
        try {
            return field(object, name).get(object);
        } catch (IllegalAccessException e) {
            throw new LinkageError(name, e);
        }
    }

    /** Sets a private field. */
    static void write(Object object, String name, Object value) {
        try {
            field(object, name).set(object, value);
        } catch (IllegalAccessException e) {
            throw new LinkageError(name, e);
        }
    }

    private static Field field(Object object, String name) {
        for (Class<?> type = object.getClass(); type != null; type = type.getSuperclass()) {
            try {
                Field field = type.getDeclaredField(name);
                field.setAccessible(true);
                return field;
            } catch (NoSuchFieldException e) {
                continue;
            }
        }
        throw new LinkageError("no field " + name + " in " + object.getClass());
    }
}
