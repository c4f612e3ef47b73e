package org.hsmsigner.applet;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.nio.file.FileSystem;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.objectweb.asm.ClassReader;
import org.objectweb.asm.Opcodes;
import org.objectweb.asm.Type;
import org.objectweb.asm.tree.AbstractInsnNode;
import org.objectweb.asm.tree.ClassNode;
import org.objectweb.asm.tree.FieldInsnNode;
import org.objectweb.asm.tree.FieldNode;
import org.objectweb.asm.tree.IntInsnNode;
import org.objectweb.asm.tree.LocalVariableNode;
import org.objectweb.asm.tree.MethodInsnNode;
import org.objectweb.asm.tree.MethodNode;
import org.objectweb.asm.tree.TypeInsnNode;
import org.objectweb.asm.tree.analysis.Analyzer;
import org.objectweb.asm.tree.analysis.AnalyzerException;
import org.objectweb.asm.tree.analysis.Frame;
import org.objectweb.asm.tree.analysis.SourceInterpreter;
import org.objectweb.asm.tree.analysis.SourceValue;

/**
 * The applet's class files against the Java Card language subset, as far as it can be seen without Oracle's
 * converter: no int, no type outside the card's API, no instruction of the larger language, no memory allocated
 * after installation, and no 16-bit result used before it is cut to 16 bits.
 */
class SubsetTest {
    private static final List<ClassNode> CLASSES = new ArrayList<>();
    private static final Set<String> TYPES = Set.of("B", "S", "Z", "V", "[B", "[S");
    private static final Set<String> CONSTRUCTION = Set.of("<init>", "<clinit>");
    /** Instructions whose result may need more than 16 bits. */
    private static final Set<Integer> WIDENING = Set.of(
            Opcodes.IADD, Opcodes.ISUB, Opcodes.IMUL, Opcodes.INEG, Opcodes.ISHL, Opcodes.IDIV, Opcodes.IINC);

    @BeforeAll
    static void read() throws Exception {
        URI source = SignerApplet.class.getProtectionDomain().getCodeSource().getLocation().toURI();
        if (Files.isDirectory(Path.of(source))) {
            collect(Path.of(source));
        } else {
            try (FileSystem jar = FileSystems.newFileSystem(Path.of(source), Map.of())) {
                collect(jar.getPath("/"));
            }
        }
        assertTrue(CLASSES.size() >= 6, "classes are missing");
    }

    private static void collect(Path root) throws IOException {
        try (Stream<Path> files = Files.walk(root)) {
            for (Path file : files.filter(path -> path.toString().endsWith(".class")).toList()) {
                try (InputStream in = Files.newInputStream(file)) {
                    ClassNode node = new ClassNode();
                    new ClassReader(in.readAllBytes()).accept(node, 0);
                    CLASSES.add(node);
                }
            }
        }
    }

    private static boolean isAllowed(String descriptor) {
        return TYPES.contains(descriptor) || descriptor.startsWith("Ljavacard/") || descriptor.startsWith("Ljavacardx/")
                || descriptor.startsWith("Lorg/hsmsigner/applet/");
    }

    private static void checkMethod(String where, String descriptor) {
        assertTrue(isAllowed(Type.getReturnType(descriptor).getDescriptor()), where);
        for (Type type : Type.getArgumentTypes(descriptor)) {
            assertTrue(isAllowed(type.getDescriptor()), where + " " + type);
        }
    }

    @Test
    void onlyTypesOfTheCard() {
        for (ClassNode node : CLASSES) {
            for (FieldNode field : node.fields) {
                assertTrue(isAllowed(field.desc), node.name + "." + field.name);
            }
            for (MethodNode method : node.methods) {
                String where = node.name + "." + method.name;
                checkMethod(where, method.desc);
                assertTrue(method.localVariables != null || method.name.equals("<clinit>"), where + ": compiled without variables");
                for (LocalVariableNode local : method.localVariables == null ? List.<LocalVariableNode>of() : method.localVariables) {
                    assertTrue(isAllowed(local.desc), where + ": " + local.name);
                }
                method.tryCatchBlocks.forEach(block ->
                        assertTrue(block.type == null || block.type.startsWith("javacard/"), where + " catches " + block.type));
            }
        }
    }

    @Test
    void onlyInstructionsOfTheCard() {
        for (ClassNode node : CLASSES) {
            for (MethodNode method : node.methods) {
                for (AbstractInsnNode instruction : method.instructions) {
                    String where = node.name + "." + method.name + " opcode " + instruction.getOpcode();
                    int opcode = instruction.getOpcode();
                    assertFalse(opcode == Opcodes.LDC || opcode == Opcodes.INVOKEDYNAMIC || opcode == Opcodes.MULTIANEWARRAY
                            || opcode == Opcodes.MONITORENTER || opcode == Opcodes.JSR || opcode == Opcodes.I2C || opcode == Opcodes.I2L, where);
                    if (instruction instanceof MethodInsnNode call) {
                        assertTrue(call.owner.startsWith("javacard") || call.owner.startsWith("org/hsmsigner/applet/")
                                || (call.owner.equals("java/lang/Object") && call.name.equals("<init>")), where + " " + call.owner);
                        checkMethod(where, call.desc);
                    } else if (instruction instanceof FieldInsnNode field) {
                        assertTrue(isAllowed(field.desc), where);
                    }
                }
            }
        }
    }

    @Test
    void memoryIsAllocatedAtInstallationOnly() {
        int arrays = 0;
        for (ClassNode node : CLASSES) {
            for (MethodNode method : node.methods) {
                for (AbstractInsnNode instruction : method.instructions) {
                    boolean allocates = instruction instanceof TypeInsnNode && instruction.getOpcode() == Opcodes.NEW
                            || instruction instanceof IntInsnNode && instruction.getOpcode() == Opcodes.NEWARRAY
                            || instruction.getOpcode() == Opcodes.ANEWARRAY
                            || instruction instanceof MethodInsnNode call && (call.name.startsWith("makeTransient")
                                    || call.name.equals("getInstance") || call.name.equals("buildKey"));
                    if (allocates) {
                        arrays++;
                        boolean install = method.name.equals("install") && method.desc.equals("([BSB)V");
                        boolean generator = method.name.equals("generator");
                        assertTrue(CONSTRUCTION.contains(method.name) || install || generator, node.name + "." + method.name + " allocates");
                    }
                }
            }
        }
        assertTrue(arrays > 10, "nothing found");
        // generator() is called by a constructor only.
        for (ClassNode node : CLASSES) {
            for (MethodNode method : node.methods) {
                for (AbstractInsnNode instruction : method.instructions) {
                    if (instruction instanceof MethodInsnNode call && call.name.equals("generator")) {
                        assertEquals("<init>", method.name);
                    }
                }
            }
        }
    }

    /**
     * The converter's rule for cards without int: the result of an addition, subtraction, multiplication, negation
     * or shift must be cast before anything that depends on its upper bits. Here: indices, comparisons, divisions,
     * right shifts, array sizes and switches take no operand straight from such an instruction.
     */
    @Test
    void noResultIsUsedBeforeItIsCut() throws AnalyzerException {
        int checked = 0;
        for (ClassNode node : CLASSES) {
            for (MethodNode method : node.methods) {
                Frame<SourceValue>[] frames = new Analyzer<>(new SourceInterpreter()).analyze(node.name, method);
                for (int i = 0; i < frames.length; i++) {
                    int opcode = method.instructions.get(i).getOpcode();
                    int depth = sensitiveOperands(opcode);
                    if (frames[i] == null || depth == 0) {
                        continue;
                    }
                    Frame<SourceValue> frame = frames[i];
                    int first = isStore(opcode) ? 1 : 0;
                    for (int operand = first; operand < first + depth; operand++) {
                        for (AbstractInsnNode source : frame.getStack(frame.getStackSize() - 1 - operand).insns) {
                            checked++;
                            assertFalse(WIDENING.contains(source.getOpcode()),
                                    node.name + "." + method.name + ": opcode " + opcode + " takes an uncut result");
                        }
                    }
                }
            }
        }
        assertTrue(checked > 300, "only " + checked + " operands found");
    }

    private static boolean isStore(int opcode) {
        return opcode == Opcodes.BASTORE || opcode == Opcodes.SASTORE;
    }

    private static int sensitiveOperands(int opcode) {
        if (opcode >= Opcodes.IF_ICMPEQ && opcode <= Opcodes.IF_ICMPLE || opcode == Opcodes.IDIV || opcode == Opcodes.IREM
                || opcode == Opcodes.ISHR || opcode == Opcodes.IUSHR) {
            return 2;
        }
        boolean one = opcode >= Opcodes.IFEQ && opcode <= Opcodes.IFLE || opcode == Opcodes.BALOAD || opcode == Opcodes.SALOAD
                || isStore(opcode) || opcode == Opcodes.NEWARRAY || opcode == Opcodes.TABLESWITCH || opcode == Opcodes.LOOKUPSWITCH
                || opcode == Opcodes.IRETURN;
        return one ? 1 : 0;
    }
}
