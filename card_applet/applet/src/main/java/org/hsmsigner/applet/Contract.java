package org.hsmsigner.applet;

/**
 * Numbers of the contract (docs/understand/apdu.md). ContractTest of the bridge holds them to that page's tables.
 */
final class Contract {
    static final byte[] AID = {(byte) 0xF0, 0x48, 0x53, 0x4D, 0x53, 0x49, 0x47, 0x4E, 0x01};
    static final short VERSION = 0x0001;
    static final short FEATURES = 0x000F;
    /** Of a card that has been issued. */
    static final short FEATURE_ORIGIN = 0x0010;

    static final byte CLA_ISO = 0x00;
    static final byte CLA_OWN = (byte) 0x80;
    /** Bit of CLA: more blocks of this command follow. */
    static final byte CHAINING = 0x10;

    static final byte INS_SELECT = (byte) 0xA4;
    static final byte INS_GET_STATUS = (byte) 0xCA;
    static final byte INS_VERIFY = 0x20;
    static final byte INS_CHANGE_REFERENCE_DATA = 0x24;
    static final byte INS_RESET_RETRY_COUNTER = 0x2C;
    static final byte INS_BEGIN_PERSONALISATION = 0x60;
    static final byte INS_INSTALL = 0x62;
    static final byte INS_HASH_MESSAGE = 0x2A;
    static final byte INS_LOAD_DIGESTS = 0x66;
    static final byte INS_AUTHORISE = 0x64;
    static final byte INS_FACTORY_RESET = 0x6E;
    static final byte INS_BEGIN_ISSUE = 0x68;
    static final byte INS_ISSUE = 0x6A;
    static final byte INS_GET_RESPONSE = (byte) 0xC0;

    // Flags of a row of COMMANDS: states, and whether the command may be chained.
    static final byte IN_BLANK = 0x01;
    static final byte IN_ACTIVE = 0x02;
    static final byte IN_BLOCKED = 0x04;
    static final byte CHAINED = 0x08;

    // Columns of COMMANDS.
    static final short COL_CLA = 0;
    static final short COL_INS = 1;
    static final short COL_P1 = 2;
    static final short COL_P2 = 3;
    static final short COL_FLAGS = 4;
    static final short COL_NC_MIN = 5;
    /** Unsigned; of chained commands without meaning, their blocks may have any length. */
    static final short COL_NC_MAX = 6;
    static final short COLUMNS = 7;

    /** Table "commands": CLA, INS, P1, P2, flags, Nc min, Nc max. */
    static final byte[] COMMANDS = {
        CLA_ISO, INS_SELECT, 0x04, 0x00, IN_BLANK | IN_ACTIVE | IN_BLOCKED, 0, (byte) 255,
        CLA_OWN, INS_GET_STATUS, 0x00, 0x00, IN_BLANK | IN_ACTIVE | IN_BLOCKED, 0, 0,
        CLA_ISO, INS_VERIFY, 0x00, (byte) 0x81, IN_ACTIVE | IN_BLOCKED, 0, (byte) 255,
        CLA_ISO, INS_CHANGE_REFERENCE_DATA, 0x00, (byte) 0x81, IN_ACTIVE | IN_BLOCKED, 1, (byte) 255,
        CLA_ISO, INS_RESET_RETRY_COUNTER, 0x00, (byte) 0x81, IN_ACTIVE | IN_BLOCKED, 1, (byte) 255,
        CLA_OWN, INS_BEGIN_PERSONALISATION, 0x00, 0x00, IN_BLANK, 0, 0,
        CLA_OWN, INS_INSTALL, 0x00, 0x00, IN_BLANK, 1, (byte) 233,
        CLA_ISO, INS_HASH_MESSAGE, (byte) 0x90, (byte) 0x80, IN_ACTIVE | CHAINED, 0, 0,
        CLA_OWN, INS_LOAD_DIGESTS, 0x00, 0x00, IN_ACTIVE | CHAINED, 0, 0,
        CLA_OWN, INS_AUTHORISE, 0x00, 0x00, IN_ACTIVE, 3, (byte) 255,
        CLA_OWN, INS_FACTORY_RESET, (byte) 0xAA, 0x55, IN_BLANK | IN_ACTIVE | IN_BLOCKED, 0, 0,
        CLA_OWN, INS_BEGIN_ISSUE, 0x00, 0x00, IN_BLANK, 0, 0,
        CLA_OWN, INS_ISSUE, 0x00, 0x00, IN_BLANK, 64, 64,
    };

    static final short SW_OK = (short) 0x9000;
    static final short SW_MORE_DATA = 0x6100;
    static final short SW_WRONG_SECRET = 0x63C0;
    static final short SW_MEMORY_FAILURE = 0x6581;
    static final short SW_WRONG_LENGTH = 0x6700;
    static final short SW_NO_CHAINING = 0x6884;
    static final short SW_NOT_VERIFIED = 0x6982;
    static final short SW_BLOCKED = 0x6983;
    static final short SW_CONDITIONS = 0x6985;
    static final short SW_WRONG_DATA = 0x6A80;
    static final short SW_NOT_FOUND = 0x6A82;
    static final short SW_WRONG_P1P2 = 0x6A86;
    static final short SW_NO_REFERENCE_DATA = 0x6A88;
    static final short SW_UNKNOWN_INSTRUCTION = 0x6D00;
    static final short SW_UNKNOWN_CLASS = 0x6E00;

    static final byte TAG_FCI = 0x6F;
    static final byte TAG_AID = (byte) 0x84;
    static final byte TAG_PROPRIETARY = (byte) 0xA5;
    static final byte TAG_VERSION = (byte) 0x80;
    static final byte TAG_STATE = (byte) 0x81;
    static final byte TAG_SCHEME = (byte) 0x82;
    static final byte TAG_COMBINE = (byte) 0x83;
    static final byte TAG_CREDENTIAL_ID = (byte) 0x84;
    static final byte TAG_PIN_LEFT = (byte) 0x85;
    static final byte TAG_PUK_LEFT = (byte) 0x86;
    static final byte TAG_SERIAL = (byte) 0x87;
    static final byte TAG_FEATURES = (byte) 0x88;
    static final byte TAG_PIN_POLICY = (byte) 0x89;
    static final byte TAG_PIN_CHECK = (byte) 0x8A;
    static final byte TAG_CERTIFICATE_OF_ORIGIN = (byte) 0x8B;
    static final byte TAG_PROOF_OF_ORIGIN = (byte) 0x8C;
    static final byte TAG_ORIGIN_POINT = (byte) 0x8D;
    static final byte TAG_POINT = (byte) 0x90;
    static final byte TAG_WRAPPED_KCAR = (byte) 0x91;
    static final byte TAG_WRAPPED_KEK = (byte) 0x92;
    static final byte TAG_PIN = (byte) 0x93;
    static final byte TAG_PUK = (byte) 0x94;
    static final byte TAG_TRIES = (byte) 0x95;

    static final byte STATE_BLANK = 0x01;
    static final byte STATE_ACTIVE = 0x03;
    static final byte STATE_PIN_BLOCKED = 0x04;

    static final byte SCHEME_BASIC = 0x01;
    static final byte SCHEME_PIN = 0x02;
    static final byte SCHEME_ROLLING = 0x03;

    static final byte COMBINE_NONE = 0x00;
    static final byte COMBINE_XOR = 0x01;
    static final byte COMBINE_CBC = 0x02;

    static final byte MODE_MESSAGE = 0x01;
    static final byte MODE_DIGESTS = 0x02;

    static final byte POLICY_ALWAYS = 0x01;
    static final byte POLICY_SESSION = 0x02;

    static final byte CHECK_CARD = 0x01;
    static final byte CHECK_SERVER = 0x02;

    static final byte ROLE_PIN = 0x01;
    static final byte ROLE_PUK = 0x02;

    static final short PIN_MIN = 6;
    static final short PIN_MAX = 12;
    static final short PUK_MIN = 16;
    static final short PUK_MAX = 32;
    static final byte TRIES_MIN = 1;
    static final byte TRIES_MAX = 15;
    static final short ROLLING_VALUES_MAX = 6;
    static final short DIGESTS_HEADER = 3;
    static final short CREDENTIAL_ID_LENGTH = 16;
    static final short SERIAL_LENGTH = 8;
    static final short NONCE_LENGTH = 16;
    static final short SALT_LENGTH = 16;
    static final short KEY_LENGTH = 32;
    static final short WRAPPED_KEY_LENGTH = 40;
    static final short POINT_LENGTH = 65;
    static final short COMPRESSED_POINT_LENGTH = 33;
    static final short SIGNATURE_LENGTH = 64;
    static final short ORIGIN_CERTIFICATE_LENGTH = 97;
    static final short SHORT_DATA_MAX = 255;

    /** Table "algorithms": code (2 bytes), digest length; 0: not in mode 02. */
    static final byte[] ALGORITHMS = {
        0x01, 0x01, 32,
        0x01, 0x02, 48,
        0x01, 0x03, 64,
        0x01, 0x11, 32,
        0x01, 0x12, 48,
        0x01, 0x13, 64,
        0x02, 0x01, 32,
        0x02, 0x02, 48,
        0x02, 0x03, 64,
        0x03, 0x01, 0,
    };

    /** "hsm-signer/1/digests" */
    static final byte[] LABEL_DIGESTS = {
        'h', 's', 'm', '-', 's', 'i', 'g', 'n', 'e', 'r', '/', '1', '/',
        'd', 'i', 'g', 'e', 's', 't', 's',
    };
    /** "hsm-signer/1/authorise" */
    static final byte[] LABEL_AUTHORISE = {
        'h', 's', 'm', '-', 's', 'i', 'g', 'n', 'e', 'r', '/', '1', '/',
        'a', 'u', 't', 'h', 'o', 'r', 'i', 's', 'e',
    };
    /** "hsm-signer/1/position" */
    static final byte[] LABEL_POSITION = {
        'h', 's', 'm', '-', 's', 'i', 'g', 'n', 'e', 'r', '/', '1', '/',
        'p', 'o', 's', 'i', 't', 'i', 'o', 'n',
    };
    /** "hsm-signer/1/blind" */
    static final byte[] LABEL_BLIND = {
        'h', 's', 'm', '-', 's', 'i', 'g', 'n', 'e', 'r', '/', '1', '/',
        'b', 'l', 'i', 'n', 'd',
    };
    /** "hsm-signer/1/powf" */
    static final byte[] LABEL_POWF = {
        'h', 's', 'm', '-', 's', 'i', 'g', 'n', 'e', 'r', '/', '1', '/',
        'p', 'o', 'w', 'f',
    };
    /** "hsm-signer/1/personalise" */
    static final byte[] LABEL_PERSONALISE = {
        'h', 's', 'm', '-', 's', 'i', 'g', 'n', 'e', 'r', '/', '1', '/',
        'p', 'e', 'r', 's', 'o', 'n', 'a', 'l', 'i', 's', 'e',
    };
    /** "hsm-signer/2/card-origin" */
    static final byte[] LABEL_CARD_ORIGIN = {
        'h', 's', 'm', '-', 's', 'i', 'g', 'n', 'e', 'r', '/', '2', '/',
        'c', 'a', 'r', 'd', '-', 'o', 'r', 'i', 'g', 'i', 'n',
    };

    private Contract() {
    }
}
