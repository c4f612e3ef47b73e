#!/bin/sh
# Makes card_applet/target/signer-applet.cap with Oracle's Java Card SDK, which may not be redistributed:
#
#   JAVACARD_SDK=/path/to/sdk card_applet/convert.sh
#
# Takes the SDK 3.0.5 (its own API) and the tools of 3.1 and later (API 3.0.5 by -target; JAVACARD_API=3.0.4 for cards
# of 3.0.4). Needs a JDK of 8 to 19: every converter reads class files of Java 7, and newer compilers write none.
set -eu

die() {
    echo "convert.sh: $*" >&2
    exit 1
}

PACKAGE=org.hsmsigner.applet
PACKAGE_AID=0xF0:0x48:0x53:0x4D:0x53:0x49:0x47:0x4E
APPLET_AID=$PACKAGE_AID:0x01
VERSION=1.0

here=$(cd "$(dirname "$0")" && pwd)
sdk=${JAVACARD_SDK:-}
[ -n "$sdk" ] || die "JAVACARD_SDK is not set: it names the folder of Oracle's Java Card SDK"
[ -d "$sdk" ] || die "JAVACARD_SDK: no folder $sdk"
[ -f "$sdk/lib/tools.jar" ] || die "JAVACARD_SDK: $sdk has no lib/tools.jar, so it is no Java Card SDK of 3.0.5 or later"
sdk=$(cd "$sdk" && pwd)

version=${JAVACARD_API:-3.0.5}
case $version in
3.0.4 | 3.0.5) ;;
*) die "JAVACARD_API: $version is neither 3.0.4 nor 3.0.5" ;;
esac

if [ -f "$sdk/lib/api_classic-$version.jar" ]; then
    api=$sdk/lib/api_classic-$version.jar
    set -- -target "$version"
elif [ "$version" != 3.0.5 ]; then
    die "JAVACARD_API: $sdk does not convert for $version, the tools of 3.1 and later do"
elif [ -f "$sdk/lib/api_classic.jar" ] && [ -d "$sdk/api_export_files" ]; then
    api=$sdk/lib/api_classic.jar
    # The 3.0.x converters would otherwise make proxy classes and look for their own home.
    set -- -exportpath "$sdk/api_export_files" -useproxyclass
else
    die "JAVACARD_SDK: $sdk has neither lib/api_classic-3.0.5.jar nor lib/api_classic.jar with api_export_files"
fi

for tool in javac java; do
    command -v $tool >/dev/null || die "no $tool in PATH"
done
out=$here/target/convert
rm -rf "$out"
mkdir -p "$out/classes" "$out/cap"

# java.lang is the JDK's here; SubsetTest sees to it that the applet uses nothing of it that a card lacks.
javac -g -source 7 -target 7 -Xlint:-options -proc:none -cp "$api" -d "$out/classes" \
    "$here"/applet/src/main/java/org/hsmsigner/applet/*.java ||
    die "javac failed; it has to be of JDK 8 to 19, which still write class files of Java 7"

java -Djc.home="$sdk" -cp "$sdk/lib/*" com.sun.javacard.converter.Main \
    -classdir "$out/classes" -d "$out/cap" "$@" -out CAP -nobanner -verbose \
    -applet $APPLET_AID $PACKAGE.SignerApplet $PACKAGE $PACKAGE_AID $VERSION ||
    die "the converter failed"

cap=$(find "$out/cap" -name '*.cap')
[ -f "$cap" ] || die "the converter wrote no CAP file"
cp "$cap" "$here/target/signer-applet.cap"
echo "$here/target/signer-applet.cap"
