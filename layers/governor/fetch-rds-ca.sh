#!/bin/sh
# Replaces the bundled certificate authorities of Amazon RDS by the ones that AWS publishes today, for all partitions.
# Then put the regions that it prints into the rule AuthorityIsInTheBundle of template.yaml: a test compares them.
set -eu
bundle="$(dirname "$0")/connection_governor/database/rds-ca-bundle.pem"
fetch() {
    curl --fail --silent --show-error "$1" >"$bundle.part"
    openssl x509 -noout -in "$bundle.part"  # refuse anything that is no certificate, such as a proxy's error page
    cat "$bundle.part" >>"$bundle.new"
}
rm -f "$bundle.new"
fetch https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem
fetch https://truststore.pki.us-gov-west-1.rds.amazonaws.com/global/global-bundle.pem
fetch https://rds-truststore.s3.cn-north-1.amazonaws.com.cn/global/global-bundle.pem
rm "$bundle.part"
mv "$bundle.new" "$bundle"
openssl crl2pkcs7 -nocrl -certfile "$bundle" | openssl pkcs7 -print_certs -noout |
    sed -n 's/.*Amazon RDS \([a-z0-9-]*\) Root CA.*/\1/p' | sort -u
