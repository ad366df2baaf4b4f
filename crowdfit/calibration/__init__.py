"""From image units to physical ones: units, zero points, corrections to total, extinction, and their errors."""
