// What the dashboards' JSON is held against: Grafana's own types, and those of the options of the panels that we use.
import type { AnnotationQuery, Dashboard, DataQuery } from "@grafana/schema";
import type {
  Options as HeatmapOptions,
  FieldConfig as HeatmapFields,
} from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type { Options as StatOptions } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type {
  Options as TimeSeriesOptions,
  FieldConfig as TimeSeriesFields,
} from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// What Prometheus' data source adds to an annotation (annotations.ts of @grafana/prometheus, far too large a package to
// install for three names).
interface PrometheusAnnotation extends AnnotationQuery<DataQuery & { expr: string; interval?: string }> {
  titleFormat?: string;
  textFormat?: string;
  tagKeys?: string;
}

// Grafana fills in the defaults of options that are left out.
export interface Checked {
  dashboard: Omit<Dashboard, "annotations"> & { annotations: { list: PrometheusAnnotation[] } };
  heatmap: { options: Partial<HeatmapOptions>; custom: Partial<HeatmapFields> };
  stat: { options: Partial<StatOptions>; custom: {} };
  timeseries: { options: Partial<TimeSeriesOptions>; custom: Partial<TimeSeriesFields> };
}
