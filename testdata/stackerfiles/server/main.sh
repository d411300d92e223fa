#!/bin/sh
echo "server @commit@ @release@: $*"
