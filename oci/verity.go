package oci

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// verityBlock is the size of dm-verity's data and hash blocks, in bytes: that of a
// page, which every kernel takes.
const verityBlock = 4096

// verityHashes is how many hashes are in a hash block.
const verityHashes = verityBlock / sha256.Size

// veritySuperblock is the start of dm-verity's hash area, version 1 with hash type
// 1, little endian: cryptsetup's wiki, "DMVerity", "Verity superblock format".
type veritySuperblock struct {
	Signature     [8]byte
	Version       uint32
	HashType      uint32
	UUID          [16]byte
	Algorithm     [32]byte
	DataBlockSize uint32
	HashBlockSize uint32
	DataBlocks    uint64
	SaltSize      uint16
	_             [6]byte
	Salt          [256]byte
	_             [168]byte
}

// verity writes dm-verity's hash area for data of size bytes, to stand right after
// the data as `veritysetup --hash-offset=size` has it, and returns the root hash.
// It is a function of the data and the salt: the uuid is taken from the salt.
func verity(data io.ReaderAt, size int64, salt [sha256.Size]byte, w io.Writer) (root [sha256.Size]byte, err error) {
	if size <= 0 || size%verityBlock != 0 {
		return root, fmt.Errorf("%d bytes are no whole number of blocks of %d bytes", size, verityBlock)
	}
	sb := veritySuperblock{
		Version: 1, HashType: 1,
		DataBlockSize: verityBlock, HashBlockSize: verityBlock,
		DataBlocks: uint64(size / verityBlock),
		SaltSize:   uint16(len(salt)),
	}
	copy(sb.Signature[:], "verity")
	copy(sb.Algorithm[:], "sha256")
	copy(sb.UUID[:], salt[:])
	copy(sb.Salt[:], salt[:])
	head := make([]byte, 0, verityBlock)
	if head, err = binary.Append(head, binary.LittleEndian, sb); err != nil {
		return root, err
	}
	if _, err := w.Write(head[:verityBlock]); err != nil {
		return root, err
	}
	level, err := hashBlocks(io.NewSectionReader(data, 0, size), salt)
	if err != nil {
		return root, err
	}
	var levels [][]byte // the lowest first; on disk the highest is
	for len(level) > sha256.Size {
		blocks := (len(level)/sha256.Size + verityHashes - 1) / verityHashes
		level = append(level, make([]byte, blocks*verityBlock-len(level))...)
		levels = append(levels, level)
		level = nil
		for i := range blocks {
			block := levels[len(levels)-1][i*verityBlock:][:verityBlock]
			level = append(level, hashBlock(block, salt)...)
		}
	}
	for i := len(levels) - 1; i >= 0; i-- {
		if _, err := w.Write(levels[i]); err != nil {
			return root, err
		}
	}
	return [sha256.Size]byte(level), nil
}

// hashBlocks returns the hashes of all blocks, one after the other.
func hashBlocks(r io.Reader, salt [sha256.Size]byte) ([]byte, error) {
	var hashes []byte
	block := make([]byte, verityBlock)
	for {
		_, err := io.ReadFull(r, block)
		if errors.Is(err, io.EOF) {
			return hashes, nil
		}
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, hashBlock(block, salt)...)
	}
}

// hashBlock is hash type 1: the salt comes before the block.
func hashBlock(block []byte, salt [sha256.Size]byte) []byte {
	h := sha256.New()
	h.Write(salt[:])
	h.Write(block)
	return h.Sum(nil)
}
